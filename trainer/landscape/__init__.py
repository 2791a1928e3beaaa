"""Run optimizers on test functions of two parameters and draw their paths."""
