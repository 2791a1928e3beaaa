"""The implementations of the verbs. Most import torch."""
