"""The training loop, the experiment it runs, the code that builds an experiment, and the engines."""
