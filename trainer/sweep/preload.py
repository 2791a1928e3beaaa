"""What workers need, imported by the fork server before it forks them.

Building the first optimizer imports torch's compiler, which takes as long as importing torch.
"""

from __future__ import annotations

import torch

from trainer import kernel_cache
from trainer.sweep.training import Trainer as Trainer

kernel_cache.build_first_optimizer()
torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
