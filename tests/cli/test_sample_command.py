"""optlab sample: text of a language model."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from command import TINY, optlab, train, write_tiny
from torch import Tensor, nn

from trainer.errors import RunError
from trainer.models.sampling import sample_tokens
from trainer.runs.trained import load_trained

CONFIG = """\
name: alternating
data: {name: text, path: text.txt, context: 4, batch_size: 8, parts: [0.8, 0.1, 0.1]}
model: {name: gru, embedding: 4, hidden: 8}
optimizer: {name: Adam, lr: 0.05}
train: {steps: 60, threads: 1, eval_every: {steps: 20}}
log: {plots: []}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of "abcabc..."."""
    folder = tmp_path_factory.mktemp("sample")
    (folder / "text.txt").write_text("abc" * 100)
    train(write_tiny(folder, CONFIG), run_dir=folder / "run")
    return folder / "run"


def test_a_model_continues_its_prompt(run: Path) -> None:
    done = optlab("sample", run, "--prompt", "bca", "--tokens", "7", "--temperature", "0")
    assert (done.code, done.out) == (0, "bcabcabcab\n"), done.err


def test_the_default_prompt_is_the_first_character_and_the_seed_decides_the_text(run: Path) -> None:
    texts = [
        optlab("sample", run, "--tokens", "50", "--temperature", "50", "--seed", str(seed)).out
        for seed in (0, 0, 1)
    ]
    assert texts[0] == texts[1] != texts[2]
    assert all(text.startswith("a") and len(text) == 52 for text in texts)


def test_the_model_is_that_of_the_best_checkpoint(run: Path) -> None:
    best = json.loads((run / "summary.json").read_text())["best"]["values"]["val_loss"]
    assert load_trained(run).experiment.measure("val")["loss"] == best


@pytest.mark.parametrize("unit", ["bytes", "characters"])
def test_prompts_are_encoded_as_the_text(tmp_path: Path, unit: str) -> None:
    (tmp_path / "text.txt").write_text("né\n" * 100, encoding="utf-8")
    train(write_tiny(tmp_path, CONFIG), f"data.unit={unit}", "train.steps=2", run_dir=tmp_path / "run")
    done = optlab("sample", tmp_path / "run", "--prompt", "né", "--tokens", "3")
    assert (done.code, done.out[:2]) == (0, "né")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--prompt", "axe"), "the training text has no 'e', 'x'"),
        (("--temperature", "nan"), "--temperature is nan"),
        (("--temperature", "-1"), "--temperature is -1"),
        (("--tokens", "0"), "--tokens"),
    ],
)
def test_bad_arguments_get_one_message(run: Path, arguments: tuple[str, ...], message: str) -> None:
    done = optlab("sample", run, *arguments)
    assert (done.code, done.out) == (2, "")
    assert message in done.err


def test_a_run_of_another_task_gets_one_message(tmp_path: Path) -> None:
    train(write_tiny(tmp_path, TINY), run_dir=tmp_path / "run")
    done = optlab("sample", tmp_path / "run")
    assert (done.code, "its task is classification" in done.err) == (2, True)
    (tmp_path / "run/checkpoints/last.pt").unlink()
    (tmp_path / "run/checkpoints/best.pt").unlink()
    done = optlab("sample", tmp_path / "run")
    assert (done.code, "last.pt does not exist" in done.err) == (2, True)


def test_a_changed_text_is_reported(run: Path) -> None:
    text = run.parent / "text.txt"
    former = text.read_text()
    try:
        text.write_text("bca" * 100)
        done = optlab("sample", run)
        assert (done.code, "the data set is not the one" in done.err) == (2, True)
    finally:
        text.write_text(former)


class Table(nn.Module):
    """The logits of a token depend on the token before it."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits
        self.longest = 0

    def forward(self, tokens: Tensor) -> Tensor:
        self.longest = max(self.longest, tokens.shape[1])
        return self.logits[tokens]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_from_the_softmax(temperature: float) -> None:
    model = Table(torch.tensor([[0.0, 1.0, 2.0]] * 3))
    drawn = sample_tokens(
        model,
        torch.tensor([0]),
        count=3000,
        context=5,
        temperature=temperature,
        generator=torch.Generator().manual_seed(0),
    )
    assert model.longest == 5
    weights = [math.exp(logit / temperature) for logit in (0, 1, 2)]
    for token, weight in enumerate(weights):
        assert float((drawn[1:] == token).double().mean()) == pytest.approx(weight / sum(weights), abs=0.03)


def test_logits_that_are_not_finite_are_reported() -> None:
    model = Table(torch.full((3, 3), math.nan))
    with pytest.raises(RunError, match="not finite"):
        sample_tokens(
            model, torch.tensor([0]), count=1, context=5, temperature=1.0, generator=torch.Generator()
        )
