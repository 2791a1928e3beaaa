"""Sweeps: one file to many runs, in parallel, resumable, with declared budgets, chosen honestly.

A run of a sweep goes through `launch.launch` like any other, so that it is the same run alone or in a sweep.
"""
