"""The lessons: fifteen small experiments on `torch.optim`, each with a figure."""
