"""The adapter file: a LoRA in the key names that stock loaders take, its card, and its strength over sampling."""
