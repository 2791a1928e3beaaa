"""Optimizers: torch's, the teaching implementations, and parameter groups.

`groups` assigns parameters to optimizers and groups, `build` builds an optimizer with the fastest
implementation that torch accepts, `rules` rejects invalid combinations before a run, and `scratch` contains
the update rules in plain tensor arithmetic.
"""
