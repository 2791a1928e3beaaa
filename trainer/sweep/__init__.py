"""Sweeps: many runs from one file, in parallel and resumable, with a declared budget per variant.

A run of a sweep is started by `launch.launch`, so it gives the same results as outside of a sweep.
"""
