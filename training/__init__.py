"""The trainer: image folder, groups, training loop, adapter file, command line. Never imported by debias/."""
