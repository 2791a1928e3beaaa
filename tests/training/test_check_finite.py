"""Non-finite numbers end the run as diverged, with the step and the first parameter in the message."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command import optlab, write_tiny

WATCH = ["train.check_finite=true", "log.every=1000", "--quiet", "--json"]


def diverged(tmp_path: Path, *overrides: str) -> tuple[int, str]:
    done = optlab("train", write_tiny(tmp_path), *overrides, *WATCH, "--run-dir", tmp_path / "run")
    assert done.code == 3, done.err
    assert done.json["status"] == "diverged"
    return done.json["steps"], done.json["message"]


def test_exploding_gradients(tmp_path: Path) -> None:
    step, message = diverged(tmp_path, "optimizer.lr=1e30")
    assert step == 2
    assert message.startswith("step 2: the loss is nan; the first bad gradient is ")


def test_weights_that_start_infinite(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(
        "import torch\n\ndef net(input_shape, num_classes):\n"
        "    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, num_classes))\n"
        "    model[1].bias.data[3] = float('inf')\n    return model\n"
    )
    step, message = diverged(tmp_path, f"model={{name: '{tmp_path}/bad.py:net'}}")
    assert step == 0
    assert message == (
        "step 0: the evaluation loss is not finite or above its bound; "
        "the first bad weight is 1.bias (1 of 10 values)"
    )


def test_nan_in_the_data(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(64, 8)).astype(np.float32)
    y = np.arange(64) % 4
    bad = x.copy()
    bad[40, 2] = np.nan
    np.savez(tmp_path / "data.npz", x_train=bad, y_train=y, x_test=x, y_test=y)
    data = f"data={{name: npz, path: {tmp_path}/data.npz, batch_size: 16, shuffle: never}}"
    done = optlab("train", write_tiny(tmp_path), data, *WATCH, "--run-dir", tmp_path / "run")
    if done.code == 2:  # told before the run, which is better still
        assert "data.npz" in done.err
        assert "nan" in done.err.lower() or "finite" in done.err
        return
    assert done.code == 3
    assert done.json["message"].startswith(
        "step 3: the loss is nan; the batch has 1 bad values of 128 in its inputs"
    )


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_sound_run_is_left_alone(tmp_path: Path, precision: str) -> None:
    config = write_tiny(tmp_path)
    watched, plain = tmp_path / "watched", tmp_path / "plain"
    for folder, options in ((watched, ["train.check_finite=true"]), (plain, [])):
        done = optlab(
            "train", config, f"train.precision={precision}", *options, "--quiet", "--run-dir", folder
        )
        assert done.code == 0, done.err
    losses = [(folder / "steps.csv").read_text().count("\n") for folder in (watched, plain)]
    assert losses[0] == losses[1]


def test_without_it_divergence_is_found_at_a_row(tmp_path: Path) -> None:
    done = optlab(
        "train", write_tiny(tmp_path), "optimizer.lr=1e30", "--quiet", "--json", "--run-dir", tmp_path / "r"
    )
    assert (done.code, done.json["message"]) == (3, "the loss was not finite or above its bound at step 2")
