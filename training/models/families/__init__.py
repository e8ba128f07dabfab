"""One module per model family, with its configuration at full size beside it; see `family.Family`."""
