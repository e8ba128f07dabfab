"""Who is in which image: targets, groups by labels, words or discovery, and the weights that balance them."""
