"""Source files of misbehaving user components of every kind.

Each component has a single fault: an act (it raises, exits, changes the process) at one place, or a wrong
return value. A new fault is one line of `ACTS`, `RETURNS` or `ODD`.
"""

from __future__ import annotations

import textwrap

PLACES = ("import", "construct", "call 1", "call 20")

RAISING = {
    "ValueError": "raise ValueError('boom')",
    "AssertionError": "assert False",
    "KeyError": "raise KeyError('lr')",
    "SystemExit": "sys.exit()",
    "SystemExit 0": "sys.exit(0)",
    "SystemExit 3": "sys.exit(3)",
    "SystemExit text": "raise SystemExit('bye')",
    "BaseException": "raise BaseException('odd')",
    "GeneratorExit": "raise GeneratorExit",
    "StopIteration": "raise StopIteration",
    "a warning as an error": "exec('with warnings.catch_warnings(): warnings.simplefilter(`error`); "
    "warnings.warn(`w`)'.replace('`', chr(34)))",
    "recursion": "deep()",
    "huge allocation": "torch.empty(2**48)",
    "an exception without text": "raise Speechless",
    "a text that cannot be printed": "raise ValueError('\\x1b[31m\\ud800\\0')",
    "an exception in another thread's pool": "pool.submit(int, 'x').result()",
}

LASTING = {
    "prints": "print('hello')",
    "another directory": "os.chdir('/')",
    "another default type": "torch.set_default_dtype(torch.float64)",
    "gradients off": "torch.set_grad_enabled(False)",
    "warnings are errors": "warnings.simplefilter('error')",
    "another recursion limit": "sys.setrecursionlimit(5000)",
    "other threads": "torch.set_num_threads(2)",
    "seeds": "torch.manual_seed(0)",
}

ACTS = RAISING | LASTING

RETURNS = {
    "None": "None",
    "a number": "3.5",
    "a text": "'text'",
    "a list": "[1, 2]",
    "a dict": "{'a': 1.0}",
    "itself": "back",
    "NaN": "torch.full((), float('nan'))",
    "NaN as a number": "float('nan')",
    "a 0-d tensor without gradient": "torch.zeros(())",
    "integers": "torch.zeros(3, dtype=torch.int64)",
    "a wrong shape": "torch.zeros(3, 5, 7)",
    "an empty tensor": "torch.zeros(0)",
    "a meta tensor": "torch.zeros(2, 10, device='meta')",
    "itself on meta": "value.to('meta') if isinstance(value, torch.Tensor) else value",
    "complex": "torch.zeros((), dtype=torch.complex64)",
    "float64": "value.double() if hasattr(value, 'double') else value",
    "one more dimension": "value[None] if isinstance(value, torch.Tensor) else [value]",
}

HEAD = """\
import concurrent.futures, os, sys, warnings
import torch
from torch import nn

pool = concurrent.futures.ThreadPoolExecutor(1)
calls = 0

class Speechless(Exception):
    def __str__(self):
        raise RuntimeError("no words")

def deep():
    return deep() + 1

def act():
    {act}

def at(place):
    if place == {place!r}:
        act()

def call():
    global calls
    calls += 1
    at("call 1")
    if calls >= 20:
        at("call 20")

class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)
    def forward(self, images):
        return self.layer(images.flatten(1))

def back(value):
    if calls >= {since}:
        return {value}
    return value

at("import")
"""

PARTS = {
    "optimizer": """\
class Part(torch.optim.SGD):
    def __init__(self, params, lr=0.05):
        super().__init__(params, lr)
        at("construct")

    def step(self, closure=None):
        call()
        return back(super().step(closure))
""",
    "wrapper": """\
class Part(torch.optim.Optimizer):
    def __init__(self, optimizer):
        super().__init__(optimizer.param_groups, {})
        self.optimizer, self.param_groups = optimizer, optimizer.param_groups
        at("construct")

    def step(self, closure=None):
        call()
        return back(self.optimizer.step(closure))
""",
    "schedule without a base class": """\
class Part:
    def __init__(self, optimizer):
        self.optimizer = optimizer
        at("construct")

    def step(self):
        call()
        for group in self.optimizer.param_groups:
            group["lr"] = back(0.05)
""",
    "scheduler": """\
class Part(torch.optim.lr_scheduler.LRScheduler):
    def __init__(self, optimizer, last_epoch=-1):
        super().__init__(optimizer, last_epoch)
        at("construct")

    def get_lr(self):
        call()
        return back([group["lr"] for group in self.optimizer.param_groups])
""",
    "model": """\
class Part(nn.Module):
    def __init__(self, input_shape, num_classes):
        super().__init__()
        self.layer = nn.Linear(64, num_classes)
        at("construct")

    def forward(self, images):
        call()
        return back(self.layer(images.flatten(1)))
""",
    "init": """\
def Part(tensor):
    call()
    at("construct")
    return back(tensor.fill_(0.01))
""",
    "loss": """\
def Part():
    at("construct")
    def loss(outputs, targets):
        call()
        return back(nn.functional.cross_entropy(outputs, targets))
    return loss
""",
    "dataset": """\
from trainer.data.dataset import Split, make_dataset

def Part():
    call()
    at("construct")
    draw = torch.Generator().manual_seed(0)
    def split(n):
        pixels = torch.randint(256, (n, 1, 8, 8), generator=draw, dtype=torch.uint8)
        return Split(pixels, torch.arange(n) % 10)
    return back(make_dataset(split(700), split(50), [str(n) for n in range(10)]))
""",
    "torch dataset": """\
class Part(torch.utils.data.Dataset):
    def __init__(self, train=True):
        at("construct")

    def __len__(self):
        return 450

    def __getitem__(self, index):
        call()
        return back((torch.full((1, 8, 8), index / 450), index % 10))
""",
    "augmentation": """\
def Part(images, generator):
    call()
    at("construct")
    return back(images.flip(3))
""",
    "metric": """\
def Part(outputs, targets):
    call()
    at("construct")
    return back((outputs.argmax(1) == targets).double())
""",
    "metric object": """\
from trainer.metrics import Metric

def add(outputs, targets):
    call()
    return outputs.double().sum()

def Part():
    at("construct")
    return Metric("part", "max", sums=add, value=lambda sums, samples: back(float(sums) / samples))
""",
    "metric sums": """\
from trainer.metrics import Metric

def compute(outputs, targets):
    call()
    return back(outputs.double().sum())

def Part():
    at("construct")
    return Metric("part", "max", sums=compute)
""",
}

KIND_OF = {
    "wrapper": "optimizer",
    "schedule without a base class": "scheduler",
    "torch dataset": "dataset",
    "metric object": "metric",
    "metric sums": "metric",
    "module": "model",
}
"""The kinds in configs of the parts and faults that are named otherwise."""

# Other faults, by kind.
ODD = {
    "optimizer: no lr": """\
class Part(torch.optim.Optimizer):
    def __init__(self, params, rate: float = 0.05):
        super().__init__(params, {"rate": rate})
    def step(self, closure=None):
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    p -= group["rate"] * p.grad
""",
    "optimizer: lr None": """\
class Part(torch.optim.SGD):
    def __init__(self, params, lr: float | None = None, kind=torch.float32, key=len, mark=object()):
        super().__init__(params, 0.05)
        self.param_groups[0]["lr"] = lr
    def step(self, closure=None):
        pass
""",
    "optimizer: groups of its own": """\
class Part(torch.optim.SGD):
    def __init__(self, params, lr: float = 0.05):
        flat = [p for one in params for p in (one["params"] if isinstance(one, dict) else [one])]
        super().__init__([{"params": [p]} for p in flat], lr)
""",
    "optimizer: more groups at step 20": """\
class Part(torch.optim.SGD):
    def step(self, closure=None):
        call()
        if calls == 20:
            group = self.param_groups[0]
            self.param_groups = [{**group, "params": [p]} for p in group["params"]]
        return super().step(closure)
""",
    "optimizer: no super().__init__": """\
class Part(torch.optim.Optimizer):
    def __init__(self, params, lr: float = 0.1):
        pass
    def step(self, closure=None):
        pass
""",
    "optimizer: copies": """\
class Part(torch.optim.SGD):
    def __init__(self, params, lr: float = 0.1):
        flat = [p for one in params for p in (one["params"] if isinstance(one, dict) else [one])]
        super().__init__([nn.Parameter(p.detach().clone()) for p in flat], lr)
""",
    "optimizer: state that cannot be saved": """\
class Part(torch.optim.SGD):
    def step(self, closure=None):
        super().step(closure)
        for p in self.param_groups[0]["params"]:
            self.state[p]["f"] = lambda: 0
""",
    "optimizer: parameters replaced": """\
class Part(torch.optim.SGD):
    def step(self, closure=None):
        call()
        for p in self.param_groups[0]["params"]:
            if calls > 20:
                p.data = torch.zeros(3)
""",
    "optimizer: moves the model to meta": """\
class Part(torch.optim.SGD):
    def __init__(self, params, model):
        super().__init__(params, 0.1)
        self.model = model
    def step(self, closure=None):
        super().step(closure)
        self.model.to("meta")
""",
    "optimizer: moves the model to meta at the end": """\
class Part(torch.optim.SGD):
    def __init__(self, params, model):
        super().__init__(params, 0.1)
        self.model = model
    def step(self, closure=None):
        super().step(closure)
        self.count = getattr(self, "count", 0) + 1
        if self.count == 25:  # the last step of the run
            self.model.to("meta")
""",
    "optimizer: replaces its parameters at step 20": """\
class Part(torch.optim.SGD):
    def step(self, closure=None):
        super().step(closure)
        call()
        if calls == 20:
            for group in self.param_groups:
                group["params"] = [nn.Parameter(p.to("meta")) for p in group["params"]]
""",
    "optimizer: eval() raises": """\
class Part(torch.optim.SGD):
    def __init__(self, params, lr: float = 0.1):
        super().__init__(params, lr, momentum=0.9)
    def train(self):
        pass
    def eval(self):
        raise ValueError("boom")
""",
    "optimizer: not deterministic": """\
class Part(torch.optim.SGD):
    def step(self, closure=None):
        self.param_groups[0]["lr"] = int.from_bytes(os.urandom(3)) / 2**24
        super().step(closure)
""",
    "optimizer: counts where no checkpoint does": """\
class Part(torch.optim.SGD):
    def __init__(self, params, lr: float = 0.1):
        super().__init__(params, lr)
        count = 0
        def rate():
            nonlocal count
            count += 1
            return 0.1 / count
        self.rate = rate
    def step(self, closure=None):
        self.param_groups[0]["lr"] = self.rate()
        super().step(closure)
""",
    "optimizer: a lock in its groups": """\
import threading
class Part(torch.optim.SGD):
    def __init__(self, params, lr: float = 0.1):
        super().__init__(params, lr)
        self.param_groups[0]["lock"] = threading.Lock()
""",
    "optimizer: *args": """\
class Part(torch.optim.SGD):
    def __init__(self, *args):
        super().__init__(*args)
""",
    "optimizer: keys of the config as options": """\
class Part(torch.optim.SGD):
    def __init__(self, params, lr=0.1, options=1, name="x", label=2, match=None, groups=(), interval=3):
        super().__init__(params, lr)
""",
    "optimizer: a required key of the config": """\
class Part(torch.optim.SGD):
    def __init__(self, params, options):
        super().__init__(params, 0.1)
""",
    "optimizer: a step that asks for more": """\
class Part(torch.optim.SGD):
    def step(self, one, two):
        pass
""",
    "optimizer: no class": "Part = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)\n",
    "optimizer: an abstract class": "Part = torch.optim.Optimizer\n",
    "optimizer: the state dict fails": """\
class Part(torch.optim.SGD):
    def state_dict(self):
        sys.exit(3)
""",
    "model: lazy": """\
class Part(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.LazyLinear(20), nn.LazyBatchNorm1d(), nn.LazyLinear(10))
    def forward(self, images):
        return self.layers(images)
""",
    "model: lazy and never called": """\
class Part(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.other = nn.Linear(64, 10), nn.LazyLinear(3)
    def forward(self, images):
        return self.layer(images.flatten(1))
""",
    "model: caches a tensor": """\
class Part(nn.Module):
    def __init__(self):
        super().__init__()
        self.pos, self.layer = None, nn.Linear(64, 10)
    def forward(self, images):
        if self.pos is None:
            self.pos = torch.arange(64, device=images.device) / 64
        return self.layer(images.flatten(1) + self.pos)
""",
    "model: sparse": """\
class Part(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(300, 10, sparse=True)
    def forward(self, images):
        return self.emb((images.flatten(1) * 255).long()).mean(1)
""",
    "model: complex": """\
class Part(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(64, 10, dtype=torch.complex64))
    def forward(self, images):
        return (images.flatten(1).to(torch.complex64) @ self.w).abs()
""",
    "model: float64": """\
class Part(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10).double()
    def forward(self, images):
        return self.layer(images.flatten(1))
""",
    "model: holds a lock": """\
import threading
class Part(nn.Module):
    def __init__(self):
        super().__init__()
        self.lock, self.layer = threading.Lock(), nn.Linear(64, 10)
    def forward(self, images):
        return self.layer(images.flatten(1))
""",
    "model: holds a generator": """\
class Part(nn.Module):
    def __init__(self):
        super().__init__()
        self.draw, self.layer = torch.Generator().manual_seed(0), nn.Linear(64, 10)
    def forward(self, images):
        return self.layer(images.flatten(1)) + torch.rand(10, generator=self.draw)
""",
    "model: on meta": """\
def Part():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10, device="meta"))
""",
    "model: grows": """\
class Part(Linear):
    def forward(self, images):
        call()
        if calls == 20:
            self.more = nn.Linear(3, 3)
        return super().forward(images)
""",
    "model: to meta at call 20": """\
class Part(Linear):
    def forward(self, images):
        call()
        if calls >= 20:
            self.to("meta")
            images = images.to("meta")
        return super().forward(images)
""",
    "model: one parameter more at call 20": """\
class Part(Linear):
    def forward(self, images):
        call()
        if calls == 20:
            self.more = nn.Parameter(torch.zeros(3))
        return super().forward(images)
""",
    "model: one parameter less at call 20": """\
class Part(Linear):
    def __init__(self):
        super().__init__()
        self.more = nn.Parameter(torch.zeros(3))
    def forward(self, images):
        call()
        if calls == 20:
            del self.more
        return super().forward(images)
""",
    "model: not deterministic": """\
class Part(Linear):
    def forward(self, images):
        return super().forward(images) * (1 + int.from_bytes(os.urandom(3)) / 2**24)
""",
    "model: initial weights not deterministic": """\
class Part(Linear):
    def __init__(self):
        super().__init__()
        with torch.no_grad():
            self.layer.bias.fill_(int.from_bytes(os.urandom(3)) / 2**24)
""",
    "model: a class": "Part = nn.Linear\n",
    "model: a builtin": "Part = max\n",
    "model: no forward": """\
class Part(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)
""",
    "model: no parameters": """\
class Part(nn.Module):
    def forward(self, images):
        return images.flatten(1)[:, :10]
""",
    "model: no super().__init__": """\
class Part(nn.Module):
    def __init__(self):
        self.layer = nn.Linear(64, 10)
""",
    "model: parameters() raises": """\
class Part(nn.Linear):
    def __init__(self):
        super().__init__(64, 10)
    def forward(self, images):
        return super().forward(images.flatten(1))
    def named_parameters(self, *args, **options):
        raise ValueError("boom")
""",
    "model: a text or a function as an option": """\
from typing import Callable, Union
class Part(nn.Sequential):
    def __init__(self, act: Union[str, Callable, type] = "relu", norm: Callable | None = None):
        super().__init__(nn.Flatten(), nn.Linear(64, 10))
""",
    "loss: no gradient": """\
def Part(outputs, targets):
    return nn.functional.cross_entropy(outputs.detach(), targets)
""",
    "loss: *args": """\
def Part(*args):
    return nn.functional.cross_entropy(*args)
""",
    "loss: changes the outputs": """\
def Part(outputs, targets):
    outputs.data.zero_()
    return nn.functional.cross_entropy(outputs, targets)
""",
    "loss: not deterministic": """\
def Part(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets) * (1 + int.from_bytes(os.urandom(3)) / 2**24)
""",
    "loss: detached at call 20": """\
def Part(outputs, targets):
    call()
    return nn.functional.cross_entropy(outputs.detach() if calls >= 20 else outputs, targets)
""",
    "loss: a module": "Part = nn.CrossEntropyLoss\n",
    "dataset: a tuple": """\
def Part():
    return torch.zeros(9, 1, 8, 8), torch.zeros(9)
""",
    "dataset: 0-d targets": """\
from trainer.data.dataset import Split, make_dataset
def Part():
    split = Split(torch.zeros(9, 64), torch.zeros(()))
    return make_dataset(split, split, None)
""",
    "dataset: labels out of range": """\
from trainer.data.dataset import Split, make_dataset
def Part():
    split = Split(torch.zeros(300, 64), torch.arange(300))
    return make_dataset(split, split, ["a", "b"])
""",
    "dataset: nothing in it": """\
from trainer.data.dataset import Split, make_dataset
def Part():
    split = Split(torch.zeros(0, 64), torch.zeros(0, dtype=torch.int64))
    return make_dataset(split, split, ["a", "b"])
""",
    "dataset: another shape in the test split": """\
from trainer.data.dataset import Split, make_dataset
def Part():
    y = torch.arange(300) % 10
    return make_dataset(Split(torch.zeros(300, 64), y), Split(torch.zeros(300, 60), y), list("0123456789"))
""",
    "dataset: on meta": """\
def Part():
    x, y = torch.zeros(300, 1, 8, 8, device="meta"), torch.arange(300) % 10
    return (x, y), (x, y)
""",
    "dataset: a length that is no number": """\
class Part(torch.utils.data.Dataset):
    def __init__(self, train=True):
        pass
    def __len__(self):
        return "many"
    def __getitem__(self, index):
        return torch.zeros(64), 0
""",
    "dataset: longer than it is": """\
class Part(torch.utils.data.Dataset):
    def __init__(self, train=True):
        pass
    def __len__(self):
        return 400
    def __getitem__(self, index):
        return [(torch.zeros(64), 0), (torch.zeros(64), 1)][index]
""",
    "dataset: another shape at sample 20": """\
class Part(torch.utils.data.Dataset):
    def __init__(self, train=True):
        pass
    def __len__(self):
        return 400
    def __getitem__(self, index):
        return torch.zeros(64 if index != 20 else 63), index % 10
""",
    "metric: not deterministic": """\
def Part(outputs, targets):
    return int.from_bytes(os.urandom(3)) / 2**24
""",
    "metric: a metric without sums": """\
from trainer.metrics import Metric
Part = Metric("part", "max")
""",
    "augmentation: neither function nor class": """\
def Part(x: float = 1.0):
    return nn.Identity()
""",
    "augmentation: half a class": """\
class Part:
    def draw(self, count, shape, generator):
        return {}
    def apply(self, images, targets, params):
        return images
""",
    "augmentation: a class that returns too little": """\
class Part:
    def check(self, split, *, key):
        pass
    def draw(self, count, shape, generator):
        return {}
    def apply(self, images, targets, params):
        return images
""",
    "augmentation: not deterministic": """\
def Part(images):
    return images + int.from_bytes(os.urandom(3)) / 2**24
""",
    "augmentation: to meta": """\
def Part(images):
    return images.to("meta")
""",
    "augmentation: a pair": """\
def Part(images, targets):
    return images.flip(3), targets
""",
    "scheduler: raises at step 19": """\
class Part(torch.optim.lr_scheduler.LambdaLR):
    def __init__(self, optimizer):
        super().__init__(optimizer, lambda step: 1 / (19 - step))
""",
    "scheduler: no schedule": """\
def Part(optimizer):
    return None
""",
    "scheduler: not deterministic": """\
class Part(torch.optim.lr_scheduler.LambdaLR):
    def __init__(self, optimizer):
        super().__init__(optimizer, lambda step: int.from_bytes(os.urandom(3)) / 2**24)
""",
    "scheduler: removes the lr": """\
class Part:
    def __init__(self, optimizer):
        self.optimizer = optimizer
    def step(self):
        del self.optimizer.param_groups[0]["lr"]
""",
    "scheduler: the state dict fails": """\
class Part(torch.optim.lr_scheduler.LRScheduler):
    def get_lr(self):
        return [0.1]
    def state_dict(self):
        sys.exit(3)
""",
    "scheduler: negative": """\
class Part(torch.optim.lr_scheduler.LambdaLR):
    def __init__(self, optimizer):
        super().__init__(optimizer, lambda step: 5 - step)
""",
    "init: another shape": """\
def Part(tensor):
    tensor.data = torch.zeros(3)
""",
    "init: to meta": """\
def Part(tensor):
    tensor.data = tensor.data.to("meta")
""",
    "init: not deterministic": """\
def Part(tensor):
    tensor.fill_(int.from_bytes(os.urandom(3)) / 2**24)
""",
    "init: needs more": """\
def Part(tensor, gain):
    pass
""",
    "init: a builtin": "Part = print\n",
    "module: not Python": "this is not Python\n",
    "module: no Part": "part = 3\n",
    "module: deletes itself": "del sys.modules[__name__]\ndef Part():\n    pass\n",
    "module: attributes raise": "def __getattr__(name):\n    sys.exit(3)\n",
}

HARMLESS = {
    *("optimizer: no lr", "optimizer: lr None", "optimizer: groups of its own"),
    *("optimizer: more groups at step 20", "optimizer: state that cannot be saved"),
    *("optimizer: a lock in its groups", "optimizer: *args", "optimizer: keys of the config as options"),
    *("optimizer: the state dict fails", "model: lazy", "model: caches a tensor", "model: sparse"),
    *("model: complex", "model: holds a lock", "model: holds a generator"),
    *("model: a text or a function as an option", "loss: changes the outputs", "loss: a module"),
    "augmentation: a pair",
}
"""Those of `ODD` with which a run completes; all others are refused before the run, or the run fails."""

CONFIG = {
    "optimizer": "optimizer: {name: 'part.py:Part'}",
    "wrapper": "optimizer: {name: 'part.py:Part', base: {name: SGD, lr: 0.05}}",
    "scheduler": "scheduler: {name: 'part.py:Part', interval: step}",
    "model": "model: {name: 'part.py:Part'}",
    "init": "init: {weight: {name: 'part.py:Part'}}",
    "loss": "loss: {name: 'part.py:Part'}",
    "dataset": "data: {name: 'part.py:Part', batch_size: 16, val_size: 50, limit: 400, normalize: null}",
    "metric": "train: {epochs: 1, threads: 1, engine: eager, metrics: [{name: 'part.py:Part', mode: max}]}",
    "augmentation": "data: {name: digits, batch_size: 16, val_size: 50, limit: 400, "
    "augment: [{name: 'part.py:Part'}]}",
}

REST = {
    "data": "data: {name: digits, batch_size: 16, val_size: 50, limit: 400}",
    "model": "model: {name: linear}",
    "optimizer": "optimizer: {name: SGD, lr: 0.05}",
    "train": "train: {epochs: 1, threads: 1, engine: eager}",
    "log": "log: {every: 5, plots: []}",
    "name": "name: bad",
}


def source(kind: str, *, act: str = "pass", place: str = "", value: str = "value", since: int = 1) -> str:
    """Return the source of a component that does `act` at `place`, or returns `value` since call `since`."""
    return HEAD.format(act=act, place=place, value=value, since=since) + PARTS[kind]


def odd(name: str) -> str:
    """Return the source of one of `ODD`."""
    return HEAD.format(act="pass", place="", value="value", since=1) + textwrap.dedent(ODD[name])


def config(kind: str) -> str:
    """Return a config of 25 steps that names the part `part.py:Part`."""
    own = CONFIG.get(kind) or CONFIG[KIND_OF[kind]]
    section = own.partition(":")[0]
    return "\n".join([own, *(line for key, line in REST.items() if key != section)]) + "\n"
