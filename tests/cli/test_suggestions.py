"""Common mistakes on the command line: the error names what was meant."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import TINY, optlab, write_tiny


@pytest.mark.parametrize(
    ("overrides", "fix"),
    [
        (["lr=0.1"], "optimizer.lr=0.1"),
        (["learning_rate=0.1"], "optimizer.lr=0.1"),
        (["epochs=3"], "train.epochs=3"),
        (["epoch=3"], "train.epochs=3"),
        (["momentum=.9"], "optimizer.momentum=0.9"),
        (["batch_size=8"], "data.batch_size=8"),
        (["hidden=[3, 4]"], "model.hidden=[3, 4]"),
        (["train.lr=0.1"], "optimizer.lr=0.1"),
        (["device=cpu"], "train.device=cpu"),
        (["optimzer=Adam"], "'optimizer'"),
        (["optimizer.learning_rate=0.1"], "optimizer.lr=0.1"),
        (["optimizer=[{name: SGD, label: a, lr: 0.1}, {name: Adam, label: b, match: '*.bias'}]", "lr=1"],
         "optimizer.a.lr=1"),
        (["--lr", "0.1"], "optimizer.lr=0.1"),
        (["--lr=0.1"], "optimizer.lr=0.1"),
        (["--epochs", "3"], "train.epochs=3"),
        (["--weight-decay", "0.1"], "optimizer.weight_decay=0.1"),
        (["--seed", "3"], "seed=3"),
        (["--nesterov"], "optimizer.nesterov=VALUE"),
    ],
)  # fmt: skip
def test_a_key_without_its_section(overrides: list[str], fix: str, tmp_path: Path) -> None:
    done = optlab("validate", write_tiny(tmp_path), *overrides)
    assert done.code == 2
    assert f"did you mean {fix}?" in done.err


def test_a_misplaced_key_in_a_file(tmp_path: Path) -> None:
    done = optlab("validate", write_tiny(tmp_path, TINY + "lr: 0.1\n"))
    assert "tiny.yaml:22: lr: unknown key" in done.err
    assert "did you mean optimizer.lr?" in done.err


def test_an_option_that_is_no_key_is_an_unknown_option(tmp_path: Path) -> None:
    done = optlab("train", write_tiny(tmp_path), "--forse")
    assert done.code == 2
    assert "--force" in done.err


@pytest.mark.parametrize("seed", ["abc", "1.5", "[1,2]"])
def test_a_seed_is_a_number_or_a_mapping(seed: str, tmp_path: Path) -> None:
    done = optlab("validate", write_tiny(tmp_path), f"seed={seed}")
    assert "a whole number, or a mapping of init, batches, augmentation, dropout" in " ".join(
        done.err.split()
    )


@pytest.mark.parametrize("verb", ["train", "validate"])
def test_a_sweep_is_not_the_config_of_a_run(verb: str) -> None:
    done = optlab(verb, "quick")
    assert done.code == 2
    assert "this is a sweep" in done.err
    assert "run it with: optlab sweep quick\n" in done.err


def test_prepare_names_the_data_set_of_a_config() -> None:
    done = optlab("prepare", "mnist_mlp")
    assert done.code == 2
    assert "optlab prepare mnist\n" in done.err


def test_the_config_of_a_run_is_not_a_sweep() -> None:
    done = optlab("sweep", "quickstart")
    assert done.code == 2
    assert "optlab train" in " ".join(done.err.split())


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (["quickstart"], "optlab train quickstart"),
        (["mine.yaml"], "optlab train mine.yaml"),
        (["quick"], "optlab sweep quick"),
        (["run", "quickstart"], "optlab train"),
        (["--lr", "0.1"], "optlab train quickstart optimizer.lr=0.1"),
        (["sweep", "quickstart", "lr=0.1,0.01"], "optimizer.lr=0.1,0.01"),
        (["train", "quickstart", "optimizer=mine.Best"], "mine.py:Best"),
        (["train", "quickstart", "optimizer=mine.py"], "mine.py:NAME"),
    ],
)
def test_the_command_that_was_meant(words: list[str], fix: str) -> None:
    done = optlab(*words)
    assert done.code == 2
    assert f"did you mean {fix}?" in done.err


def test_train_without_a_config_names_one() -> None:
    done = optlab("train")
    assert done.code == 2
    assert "for example: optlab train quickstart" in done.err


def test_spaces_between_values_are_explained() -> None:
    done = optlab("sweep", "quickstart", "optimizer.lr=0.1,", "0.01")
    assert done.code == 2
    assert "without spaces: optimizer.lr=0.1,0.01" in done.err
