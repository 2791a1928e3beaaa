"""The commands other than `train`: their output as text and as JSON."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from command import TINY, optlab, train, write_tiny

from trainer.catalog import REGISTRIES
from trainer.cli import completion

VERBS = ("train", "validate", "prepare", "plot", "runs", "list", "show", "schema", "doctor")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two completed runs and a diverged run in one directory."""
    folder = tmp_path_factory.mktemp("commands")
    config = write_tiny(folder)
    train(config, run_dir=folder / "runs/a/seed=0")
    train(config, "optimizer.lr=0.2", run_dir=folder / "runs/b/lr=0.2,seed=0")
    train(config, "optimizer.lr=1e38", run_dir=folder / "runs/b/lr=1e38,seed=0", code=3)
    return folder / "runs"


def test_help_names_every_verb_without_importing_torch() -> None:
    code = (
        "import sys; sys.argv = ['optlab', '--help']\n"
        "from trainer.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'torchvision', 'numpy', 'pandas', 'matplotlib', 'sklearn', 'scipy'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))\n"
    )
    environment = os.environ | {"COLUMNS": "100", "NO_COLOR": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "HEAVY []" in done.stdout
    for verb in VERBS:
        assert f" {verb} " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["list", "--json"], 0),
        (["show", "optimizer", "SGD"], 0),
        (["list", "nonsense"], 2),
        (["nonsense"], 2),
    ],
)
def test_the_console_command_ends_with_all_it_printed_and_the_right_code(
    arguments: list[str], code: int
) -> None:
    """It exits without Python's shutdown, which would flush the streams."""
    command = [sys.executable, "-c", "from trainer.cli import script; script()", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"COLUMNS": "80"})
    assert done.returncode == code
    assert done.stdout == optlab(*arguments).out
    assert bool(done.stderr) == bool(code)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str) -> None:
    done = optlab(verb, "--help")
    assert done.code == 0
    assert f"optlab {verb}" in done.out


def test_validate(tmp_path: Path) -> None:
    config = write_tiny(tmp_path)
    done = optlab("validate", config)
    assert (done.code, done.err) == (0, "")
    assert "valid; 7 steps" in done.out
    told = optlab("validate", config, "optimizer.lr=0.3", "--json").json
    assert told["valid"] is True
    assert told["config"]["optimizer"][0]["lr"] == 0.3
    assert os.listdir(tmp_path) == ["tiny.yaml"]


def test_validate_without_the_data_says_what_it_did_not_check(tmp_path: Path) -> None:
    config = write_tiny(tmp_path, TINY.replace("name: digits", "name: mnist\n  root: nowhere"))
    done = optlab("validate", config)
    assert (done.code, done.out) == (0, f"{config}: valid\n")
    assert "not checked, because mnist is not on disk: data, shapes of the model" in done.err
    assert "data" in optlab("validate", config, "--json").json["unchecked"]
    assert optlab("validate", config, "--data").code == 2
    assert optlab("validate", config, "optimizer.lr=-1").code == 2
    assert os.listdir(tmp_path) == ["tiny.yaml"]


@pytest.mark.parametrize("kind", [None, *REGISTRIES])
def test_list(kind: str | None) -> None:
    arguments = ("list",) if kind is None else ("list", kind)
    done = optlab(*arguments)
    found = optlab(*arguments, "--json").json
    assert list(found) == ([kind] if kind else list(REGISTRIES))
    for chosen, names in found.items():
        assert list(names) == list(REGISTRIES[chosen])
        for name, what in names.items():
            assert name in done.out
            assert what, f"{name} says nothing of itself"


def test_torchs_optimizers_and_schedules_are_all_there() -> None:
    optimizers = {name for name, cls in vars(torch.optim).items() if inspect.isclass(cls)}
    optimizers = {
        name for name in optimizers if issubclass(getattr(torch.optim, name), torch.optim.Optimizer)
    }
    assert set(REGISTRIES["optimizer"]) >= optimizers - {"Optimizer"}


@pytest.mark.parametrize("kind", REGISTRIES)
def test_show_tells_the_options_of_every_component(kind: str) -> None:
    for name in REGISTRIES[kind]:
        if name.startswith("torchvision."):
            continue  # tests/models builds them
        told = optlab("show", kind, name, "--json")
        assert told.code == 0, told.err
        for option in told.json["options"]:
            assert set(option) == {"option", "type", "required", "default", "meaning"}
            assert option["type"]
            assert option["meaning"], f"{kind} {name} {option['option']} has no meaning"


def test_show_model_prints_layers_shapes_and_parameters(tmp_path: Path, monkeypatch: Any) -> None:
    done = optlab("show", "model", "cnn")
    lines = [line.split() for line in done.out.splitlines()]
    assert ["conv1", "Conv2d", "32x32x32", "2,432"] in lines
    assert ["output", "Linear", "10", "650"] in lines
    layers = optlab(
        "show", "model", "mlp", "hidden=[7]", "--input", "1,4,4", "--classes", "3", "--json"
    ).json["layers"]
    assert [(layer["name"], layer["parameters"]) for layer in layers if layer["parameters"]] == [
        ("hidden1", 16 * 7 + 7),
        ("output", 7 * 3 + 3),
    ]
    assert layers[1]["output_shape"] == [7]
    own = "from torch import nn\ndef net(num_classes):\n    return nn.Linear(4, num_classes)\n"
    (tmp_path / "own.py").write_text(own)
    monkeypatch.chdir(tmp_path)
    done = optlab("show", "model", "own.py:net", "--input", "4", "--classes", "2")
    assert done.code == 0, done.err
    assert "10 parameters" in done.out


def test_prepare_digits() -> None:
    done = optlab("prepare", "digits")
    assert done.code == 0
    for words in ("1,501 samples", "296 samples", "1x8x8", "sha256"):
        assert words in done.out


@pytest.mark.real_data
def test_prepare_and_doctor_find_what_is_on_disk(mnist_root: Path, monkeypatch: Any, tmp_path: Path) -> None:
    assert "60,000 samples" in optlab("prepare", "mnist", f"root={mnist_root}", "download=false").out
    monkeypatch.setenv("OPTLAB_DATA", str(mnist_root))
    monkeypatch.chdir(tmp_path)
    told = optlab("doctor", "--json").json
    assert told["data"]["mnist"] == told["data"]["digits"] == "ready"
    assert told["data"]["cifar10"] == "not on disk"


def test_doctor_looks_and_leaves_nothing(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPTLAB_DATA", str(tmp_path))
    told = optlab("doctor", "--json").json
    assert told["versions"]["torch"] == metadata.version("torch")
    assert told["runs"] == {"directory": str(tmp_path / "runs"), "writable": True}
    (tmp_path / "file").write_text("")
    told = optlab("doctor", "--runs", "file", "--json").json
    assert told["runs"]["writable"] is False
    text = optlab("doctor")
    assert text.code == 0
    assert "not on disk" in text.out
    assert os.listdir(tmp_path) == ["file"]


def test_runs_lists_sorts_and_tells_programs(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = optlab("runs", runs, "--json").json
    assert [Path(row["run"]).name for row in found] == ["seed=0", "lr=0.2,seed=0", "lr=1e38,seed=0"]
    assert [row["status"] for row in found] == ["completed", "completed", "diverged"]
    monkeypatch.setenv("OPTLAB_RUNS", str(runs))
    by_accuracy = optlab("runs", "--sort=-test_accuracy", "--json").json
    scores = [row["test_accuracy"] for row in by_accuracy]
    assert scores[:2] == sorted(scores[:2], reverse=True)
    assert scores[2] is None
    assert len(optlab("runs", runs / "b").out.splitlines()) == 3
    table = optlab("runs").out.splitlines()
    assert table[0].split()[:2] == ["run", "status"]
    assert len(table) == 4


def test_runs_names_a_damaged_run_and_goes_on(runs: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(runs, tmp_path / "runs")
    (tmp_path / "runs/a/seed=0/summary.json").write_text('{"status": "comp')
    done = optlab("runs", tmp_path / "runs", "--json")
    assert done.code == 0
    assert len(done.json) == 3
    unreadable = [row for row in done.json if row["status"] == "unreadable"]
    assert [row["run"] for row in unreadable] == [str(tmp_path / "runs/a/seed=0")]
    assert "summary.json is damaged" in unreadable[0]["reason"]


def test_plot_draws_from_the_tables_alone(runs: Path) -> None:
    folder = runs / "a/seed=0"
    assert not list((folder / "plots").iterdir())
    done = optlab("plot", folder, "--format", "png", "--format", "svg")
    assert done.code == 0, done.err
    drawn = {Path(line).name for line in done.out.splitlines()}
    assert drawn == {f"{n}.{e}" for n in ("loss", "loss_logx", "accuracy", "lr") for e in ("png", "svg")}
    assert {path.name for path in (folder / "plots").iterdir()} == drawn
    assert (folder / "plots/loss.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (folder / "plots/loss.svg").read_text()


def test_plot_a_diverged_run(runs: Path) -> None:
    done = optlab("plot", runs / "b/lr=1e38,seed=0")
    assert done.code == 0, done.err
    assert "loss.png" in done.out


def test_schema_is_one_that_editors_can_use(tmp_path: Path) -> None:
    printed = optlab("schema")
    assert printed.code == 0
    schema = json.loads(printed.out)
    assert {"data", "model", "optimizer", "train"} <= set(schema["properties"])
    assert "AdamW" in printed.out
    assert "label_smoothing" in printed.out
    optlab("schema", "-o", tmp_path / "schema.json")
    assert json.loads((tmp_path / "schema.json").read_text()) == schema


def test_completion(tmp_path: Path, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs").mkdir()
    write_tiny(tmp_path / "configs", TINY)
    (tmp_path / "configs/notes.txt").write_text("")
    monkeypatch.chdir(tmp_path)
    assert list(completion.config_files("co")) == ["configs/"]
    assert list(completion.config_files("configs/")) == ["configs/tiny.yaml"]
    assert list(completion.overrides("optimizer.name=Adam")) == [
        f"optimizer.name={name}" for name in ("Adam", "AdamW", "Adamax")
    ]
    assert "train.clip_grad_norm=" in list(completion.overrides("train.cl"))
    assert list(completion.datasets("fash")) == ["fashion_mnist"]
    assert list(completion.run_dirs(f"{runs}/a/")) == [f"{runs}/a/seed=0"]
    assert next(completion.run_dirs(str(runs))).endswith("/")


def test_the_shell_asks_for_completion_and_gets_it() -> None:
    environment = os.environ | {
        "_OPTLAB_COMPLETE": "complete_bash",
        "COMP_WORDS": "optlab sh",
        "COMP_CWORD": "1",
    }
    code = "import sys; sys.argv = ['optlab']; from trainer.cli.app import app; app(prog_name='optlab')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert "show" in done.stdout.split()
