"""Several runs against each other: groups, table, tests, figures (floor 6). Trains nothing."""
