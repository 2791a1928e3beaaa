"""A run on disk: its directory, checkpoints and records, and starting and resuming it."""
