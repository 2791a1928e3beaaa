"""Training: the loop, the experiment as living objects, how it is built, and its engines."""
