"""Data: sets held in memory as tensors, their splits, what is done to a batch, and the batches.

Readers return a `Dataset`; nothing here knows configs, models or the training loop, and nothing here
touches PIL once a set is in memory.
"""
