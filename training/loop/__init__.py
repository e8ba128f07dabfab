"""The outer loop: steps, optimizer, checkpoints, several processes."""
