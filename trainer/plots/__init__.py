"""The figures of a run: drawn from its tables alone, without torch and without pyplot.

Knows nothing of run directories: the caller reads the tables and may say how a figure reaches the disk.
"""
