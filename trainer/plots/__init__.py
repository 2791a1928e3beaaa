"""The figures of a run: drawn from its tables alone, without torch and without pyplot (floor 3).

Knows nothing of run directories: the caller reads the tables and may say how a figure reaches the disk.
"""
