"""What is learnt: one file per objective, and the calibration of α."""
