"""Configs: reading, merging and validation. Imports neither torch nor any component."""
