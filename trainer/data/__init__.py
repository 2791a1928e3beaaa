"""Data sets in memory as tensors, their splits, preprocessing, augmentations and batches.

Readers return a `Dataset`. This folder does not import configs, models or the training loop. PIL is used only
to read images into memory.
"""
