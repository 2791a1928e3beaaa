"""Adam whose gradients have the wrong sign on every tenth step, as the text of a file."""

BROKEN = '''\
"""Adam whose gradients have the wrong sign on every tenth step."""

import torch


class Broken(torch.optim.Adam):
    def __init__(self, params, lr: float = 0.001) -> None:
        super().__init__(params, lr=lr)
        self.count = 0

    def step(self, closure=None):
        self.count += 1
        if self.count % 10 == 0:
            for group in self.param_groups:
                for param in group["params"]:
                    param.grad.mul_(-10)
        return super().step(closure)
'''
