"""Optimizers on surfaces of two parameters: their paths and the figures of them."""
