"""Builders of networks.

Every builder takes the shape of one sample and the number of classes, and returns a module that maps a batch
of that shape to logits [N, num_classes]. It draws the initial weights from torch's global generator (see
`trainer.seeding.global_stream`).
"""
