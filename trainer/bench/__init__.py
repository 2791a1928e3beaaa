"""Benchmarks: compare optlab's training loop with other loops on the same network and data."""
