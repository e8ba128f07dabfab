"""What a model makes, measured: folders of images, α sweeps, the card that an adapter keeps."""
