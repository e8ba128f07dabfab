"""Images from a base model: generation, guidance while sampling, files with their settings, prompts."""
