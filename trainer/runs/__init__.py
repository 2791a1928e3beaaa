"""One run on disk: its directory, checkpoints, records, and how it is started and resumed."""
