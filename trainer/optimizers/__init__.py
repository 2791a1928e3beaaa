"""Optimizers: torch's, ours for teaching, their parameter groups and how they are built.

`groups` says who owns which parameters, `build` makes an optimizer with the fastest implementation torch
allows, `rules` refuses before the run what could not work, `scratch` holds the update rules written out.
Nothing here steps an optimizer during training or knows of schedules.
"""
