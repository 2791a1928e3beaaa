"""The experiment's description: reading, merging, checking; knows no component and no torch."""
