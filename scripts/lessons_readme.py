"""Write configs/lessons/README.md from the table of lessons: python scripts/lessons_readme.py."""

from __future__ import annotations

from pathlib import Path

from trainer.lessons.table import LESSONS, Lesson, Run

README = Path(__file__).resolve().parents[1] / "configs" / "lessons" / "README.md"

HEAD = """\
# Lessons

Fifteen small experiments on `torch.optim`. Each is a few lines of YAML that extend [base.yaml](base.yaml),
the 784-200-10 network on MNIST. One command trains the missing runs and draws all figures:

```sh
optlab lessons --quick   # scikit-learn's 8x8 digits, about two minutes, no download
optlab lessons           # MNIST (OPTLAB_DATA), and CIFAR-10 for lesson 13
```

Runs and figures are written to `runs/lessons-quick` and `runs/lessons`. Rerun the command after an
interruption: finished runs are not trained again. `optlab lessons 4 7` selects lessons, `--help` lists all
options. The commands for single runs are at the end of this page. They work in any folder, because the
configs are part of the package.

Every run here has one seed. This shows what an option does. It does not show which optimizer is better: that
requires a tuned learning rate and several seeds for each optimizer.
The figures use MNIST; lesson 13 uses 10,000 JPEG-compressed images of CIFAR-10. The times in lesson 14 are
from one machine: measure your own with nothing else running.
"""


def text() -> str:
    """Return the whole file."""
    rows = ["| | What the figure shows, and why | |", "|-|-|-|", *map(_row, LESSONS)]
    runs = ["## The runs", *map(_runs, LESSONS)]
    return "\n".join([HEAD, *rows, "", "\n\n".join(runs), ""])


def _row(lesson: Lesson) -> str:
    picture = f'<img src="figures/{lesson.name}.png" alt="{lesson.heading}" width="460">'
    return f"| {lesson.number} | **{lesson.heading}.** {lesson.description} | {picture} |"


def _runs(lesson: Lesson) -> str:
    commands = "\n".join(_command(run) for run in lesson.runs if not run.repeats)
    again = sum(bool(run.repeats) for run in lesson.runs)
    said = f" (`optlab lessons` trains {again} more, with other seeds, for the times)" if again else ""
    return f"{lesson.number}. {lesson.heading}{said}:\n\n```sh\n{commands}\n```"


def _command(run: Run) -> str:
    overrides = [f"'{text}'" if set(text) & set("{}[]* ") else text for text in run.overrides]
    return " ".join(["optlab train", run.config, *overrides])


if __name__ == "__main__":
    README.write_text(text(), encoding="utf-8")
