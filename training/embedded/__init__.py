"""The embedded model, the imbalanced sets that are drawn from the example images, and the demo."""
