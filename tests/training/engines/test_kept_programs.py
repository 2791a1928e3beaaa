"""Programs that are kept on disk: the same results, and no use of damaged or foreign ones."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainer.losses import cross_entropy
from trainer.training.engines.compiler import compiler
from trainer.training.engines.inductor import kept_programs
from trainer.training.engines.inductor.compiled import CompiledEngine
from trainer.training.engines.inductor.kept_programs import Verdict
from trainer.training.engines.inductor.program_key import program_key
from trainer.training.forward import ForwardPass

needs_compiler = pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler here")
AGREES = Verdict(None, 3, 1e-6, {"eager": 2e-4, "compiled": 5e-5})


def engine(seed: int = 0, *, loss: Any = None, nesterov: bool = False, lr: float = 0.1) -> CompiledEngine:
    torch.manual_seed(seed)
    # 64 x 64 is large enough for the microkernel; the dropout draws, and the loss has a constant.
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, nesterov=nesterov)
    loss = cross_entropy(class_weights=[0.5, 1.0, 2.0]) if loss is None else loss
    return CompiledEngine(model, ForwardPass(loss), [optimizer], autocast=nullcontext())


def steps() -> list[list[tuple[Tensor, Tensor]]]:
    draw = torch.Generator().manual_seed(1)
    return [
        [(torch.randn(32, 64, generator=draw), torch.randint(3, (32,), generator=draw))] for _ in range(4)
    ]


def trained(one: CompiledEngine) -> list[Tensor]:
    torch.manual_seed(5)
    losses = [one.step(batches).loss for batches in steps()]
    return [*losses, *(p.detach().clone() for p in one.model.parameters())]


def no_tracing(*_: object) -> Any:
    raise AssertionError("the program should have been loaded")


@needs_compiler
def test_a_kept_program_gives_the_same_results(
    kept_programs_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = engine(lr=0.5)
    assert first.compile(steps()) is None
    assert not first.was_kept
    (folder,) = (path for path in kept_programs_folder.iterdir() if path.is_dir())
    verdict = kept_programs.read_verdict(folder.name)
    assert verdict is not None
    assert verdict.seconds["compiled"] > 0
    assert verdict.seconds["eager"] > 0

    expected, other = engine(3), engine(3)
    assert expected.compile(steps()) is None
    copy_of = copy.deepcopy(expected.model.state_dict())
    assert expected.was_kept
    with monkeypatch.context() as patch:
        patch.setattr(CompiledEngine, "_traced", no_tracing)
        assert other.compile(steps()) is None
    assert other.was_kept
    assert other.checked == first.checked
    assert all(torch.equal(copy_of[name], value) for name, value in other.model.state_dict().items())

    # The same as a program that was compiled in this process, bit for bit.
    for path in kept_programs_folder.iterdir():
        kept_programs._discard(path)
    compiled = engine(3)
    assert compiled.compile(steps()) is None
    assert not compiled.was_kept
    assert all(map(torch.equal, trained(other), trained(compiled)))


def test_the_key_depends_on_what_changes_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    def key(one: CompiledEngine, count: int = 32) -> str:
        assert one._why_not_compilable({}) is None
        found = one._key([(inputs[:count], targets[:count]) for inputs, targets in steps()[0]])
        assert found is not None
        return found

    usual = key(engine())
    assert key(engine(7, lr=0.003)) == usual
    others = [key(engine(nesterov=True)), key(engine(), 16), key(engine(loss=cross_entropy()))]
    wide = engine()
    wide.model.get_submodule("2").p = 0.2
    others.append(key(wide))
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    others.append(key(engine()))
    torch.set_num_threads(threads)
    assert len({usual, *others}) == len(others) + 1
    monkeypatch.setattr("trainer.training.engines.inductor.program_key._environment", lambda: ("changed",))
    assert key(engine()) != usual


def test_the_key_of_users_code_is_the_same_in_another_process(tmp_path: Path) -> None:
    script = tmp_path / "keys.py"
    script.write_text(
        "import torch\nfrom torch import nn\n"
        "from trainer.training.engines.inductor.python_state import PythonState\n"
        "SCALES = {'a': 1.0, 'b': 2.0}\n"
        "def grow(x, names=('a', 'b')):\n    return sum(x * SCALES[name] for name in names)\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.kernel = (3, 3)\n"
        "    def forward(self, x):\n        return grow(x) + torch.nn.functional.relu(x)\n"
        "print(PythonState.of({'model': Net(), 'penalty': None}).fingerprint())\n"
        "SCALES['b'] = 3.0\n"
        "print(PythonState.of({'model': Net(), 'penalty': None}).fingerprint())\n"
    )
    printed = [
        subprocess.run(
            [sys.executable, script],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]
    assert printed[0] == printed[1]
    one, other = printed[0].split()
    assert "None" not in (one, other)
    assert one != other


PROGRAMS = """\
import torch
from pathlib import Path

def add_one(values):
    return (torch.add(values[0], values[1]),)

def read_a_file(values):
    return Path("numbers").read_bytes()
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a module with functions as Inductor writes them."""
    (tmp_path / "some_programs.py").write_text(PROGRAMS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "some_programs", raising=False)
    return import_module("some_programs")


def keep(key: str, programs: Any) -> None:
    assert kept_programs.save(key, programs.add_one, [torch.ones(2)], AGREES)


@pytest.mark.usefixtures("kept_programs_folder")
def test_a_program_is_read_as_it_was_kept(programs: Any) -> None:
    keep("a", programs)
    kept = kept_programs.load("a")
    assert kept is not None
    assert kept.program is not None
    assert torch.equal(kept.program([torch.zeros(2)])[0], torch.ones(2))
    assert kept.verdict == AGREES
    assert kept_programs.save("b", None, [], Verdict("it differs", 1, 0.1))
    refused = kept_programs.load("b")
    assert refused is not None
    assert refused.program is None
    assert refused.verdict.reason == "it differs"


def test_what_cannot_be_found_again_is_not_kept(programs: Any) -> None:
    assert not kept_programs.save("a", programs.read_a_file, [], AGREES)
    assert not kept_programs.save("a", partial(programs.add_one), [], AGREES)
    assert kept_programs.load("a") is None


def truncate(folder: Path) -> None:
    (folder / "constants.pt").write_bytes(b"PK")


def edit(folder: Path) -> None:
    path = folder / "program.json"
    path.write_text(path.read_text(encoding="utf-8").replace("torch.add", "torch.sub"), encoding="utf-8")


def empty(folder: Path) -> None:
    (folder / "program.json").unlink()


def rename(folder: Path) -> None:
    """Make it another program's."""
    path = folder / "program.json"
    description = json.loads(path.read_text(encoding="utf-8").partition("\n")[2])
    text = json.dumps(description | {"key": "b"})
    path.write_text(f"{kept_programs._digest(text.encode())}\n{text}", encoding="utf-8")


@pytest.mark.parametrize("damage", [truncate, edit, empty, rename])
def test_a_damaged_program_is_discarded(
    kept_programs_folder: Path, programs: Any, damage: Callable[[Path], None]
) -> None:
    keep("a", programs)
    damage(kept_programs_folder / "a")
    assert kept_programs.load("a") is None
    assert not (kept_programs_folder / "a").exists()
    keep("a", programs)
    assert kept_programs.load("a") is not None


def test_another_users_program_is_not_run(programs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    keep("a", programs)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert kept_programs.read_verdict("a") is None
    assert kept_programs.load("a") is None


def test_one_makes_a_program_and_the_others_wait(programs: Any) -> None:
    made = []

    def use() -> None:
        with kept_programs.exclusive("a"):
            if kept_programs.load("a") is None:
                made.append(1)
                time.sleep(0.05)
                keep("a", programs)

    users = [threading.Thread(target=use) for _ in range(4)]
    for user in users:
        user.start()
    for user in users:
        user.join()
    assert len(made) == 1


def test_a_folder_that_cannot_be_written_keeps_nothing(
    tmp_path: Path, programs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setattr(kept_programs, "root", lambda: file / "programs")
    with kept_programs.exclusive("a"):
        assert kept_programs.load("a") is None
        assert not kept_programs.save("a", programs.add_one, [], AGREES)


def test_no_key_waits_for_nobody() -> None:
    with kept_programs.exclusive(None):
        pass
    assert program_key("one") != program_key("other")
