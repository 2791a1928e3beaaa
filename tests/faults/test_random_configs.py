"""Random configs of catalog components, killed at random instants and resumed, are bit-identical."""

from __future__ import annotations

import os
import random
import shutil
import signal
from pathlib import Path

import pytest
from command import TINY, optlab, write_tiny
from forks import Forks
from same_run import differences

from trainer import catalog

CONFIGS = int(os.environ.get("OPTLAB_RANDOM_CONFIGS", "100"))


def choose(draw: random.Random, *choices: str) -> list[str]:
    """Return one of some overrides, several joined by a semicolon; an empty one leaves the key as it is."""
    return [override.strip() for override in draw.choice(choices).split(";") if override]


def random_config(draw: random.Random) -> list[str]:
    """Return the overrides of a random config; `validate` rejects combinations that do not fit together."""
    return [
        f"optimizer={draw.choice(sorted(catalog.REGISTRIES['optimizer']))}",
        f"optimizer.lr={draw.choice(['0.001', '0.01', '0.1'])}",
        f"scheduler={draw.choice(['null', *sorted(catalog.REGISTRIES['scheduler'])])}",
        *choose(draw, "", "scheduler.interval=step", "scheduler.warmup=1"),
        f"seed={draw.randrange(1000)}",
        *choose(draw, "model.hidden=[16]", "model.hidden=[8,8]", "model=linear"),
        *choose(draw, "", "model.dropout=0.3"),
        *choose(draw, "", "loss.l2=0.01", "loss.label_smoothing=0.1"),
        *choose(draw, "", "data.augment=[random_rotation]", "data.augment=[mixup]"),
        *choose(draw, "", "data.shuffle=once", "data.batch_size=full", "data.drop_last=true"),
        *choose(draw, "train.epochs=3", "train.epochs=2.5", "train.epochs=null; train.steps=17"),
        *choose(draw, "", "train.accumulate=2", "train.clip_grad_norm=0.5"),
        *choose(draw, "", "train.precision=bfloat16", "train.zero_grad=never", "train.eval_train=true"),
        *choose(draw, "", "train.early_stopping={patience: 1}", "train.eval_every={steps: 4}"),
        *choose(draw, "train.checkpoint_every={steps: 2}", "train.checkpoint_every={steps: 3}", ""),
        *choose(draw, "", "log.gradients=true", "log.histograms=true", "log.every=1"),
    ]


@pytest.mark.nightly
def test_random_configs_are_killed_and_resumed(forks: Forks, tmp_path: Path) -> None:
    config, draw = write_tiny(tmp_path, TINY), random.Random(os.environ.get("OPTLAB_RANDOM_SEED", "0"))
    tried = right = hits = 0
    while right < CONFIGS:
        overrides = random_config(draw)
        tried += 1
        assert tried < 100 * CONFIGS, "hardly any of the random configs is valid"
        if optlab("validate", config, *overrides).code:
            continue
        command = ["train", config, *overrides, "--quiet", "--resume", "--run-dir"]
        whole = forks.run(tmp_path, *command, "whole")
        if whole.code not in (0, 3):
            assert "Traceback" not in whole.err, (overrides, whole.err)
            shutil.rmtree(tmp_path / "whole", ignore_errors=True)
            continue
        for _ in range(draw.randrange(1, 3)):
            at = draw.random() * whole.count
            ended = forks.run(tmp_path, *command, "killed", kill_at=at, slow=0.002)
            assert ended.code in (whole.code, -signal.SIGKILL), (overrides, ended.err)
            hits += ended.code == -signal.SIGKILL
            if ended.code == 3:  # it diverged before the kill, so it cannot be resumed
                break
        else:
            ended = forks.run(tmp_path, *command, "killed")
        assert ended.code == whole.code, (overrides, ended.err)
        assert differences(tmp_path / "whole", tmp_path / "killed") == [], overrides
        for name in ("whole", "killed"):
            shutil.rmtree(tmp_path / name)
        right += 1
    print(f"{right} configs ({hits} kills) were right, of {tried} drawn")
    assert hits > right / 3
