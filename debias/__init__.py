"""ComfyUI-DDM's library: fair training, α and fairness measurement, in pure torch."""
