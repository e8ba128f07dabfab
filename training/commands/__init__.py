"""One file per command of `ddm`."""
