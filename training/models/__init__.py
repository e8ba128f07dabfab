"""Base models: how each family and each kind of file is opened, and what is put on it."""
