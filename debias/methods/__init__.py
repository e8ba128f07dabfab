"""The published methods as mathematics: distribution guidance, alignment, invariant guidance, the DDM indicator."""
