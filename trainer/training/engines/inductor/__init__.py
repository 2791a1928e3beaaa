"""The compiled engine; all private names of torch are used in this folder alone."""
