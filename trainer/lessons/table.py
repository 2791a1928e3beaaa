"""The table of lessons: the runs that each trains and the panels of its figure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DIGITS = ("data.name=digits", "data.val_size=0.2")
"""Overrides that make a lesson use scikit-learn's digits."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a lesson.

    Args:
        label: its name in the figure.
        config: its file in configs/lessons, without the suffix.
        overrides: its overrides, as on the command line.
        quick: further overrides with `--quick`, after the lesson's.
        repeats: label of the run that this one repeats with another seed to measure times; empty = none.
    """

    label: str
    config: str
    overrides: tuple[str, ...] = ()
    quick: tuple[str, ...] = ()
    repeats: str = ""


@dataclass(frozen=True, slots=True)
class Curves:
    """A panel that shows one column of several runs.

    Args:
        title: its heading.
        column: of steps.csv or, if its name begins with train_ or val_, of epochs.csv.
        x: quantity on the x axis.
        log_x, log_y: whether the axes are logarithmic.
        runs: labels of the runs to draw; empty = all.
        smooth: draw a smoothed line above faint points; False = draw the values only.
        percent: show a fraction in percent.
        ylabel: label of the y axis.
    """

    title: str
    column: str = "loss"
    x: Literal["step", "epoch", "samples"] = "step"
    log_x: bool = False
    log_y: bool = True
    runs: tuple[str, ...] = ()
    smooth: bool = True
    percent: bool = False
    ylabel: str = "training loss (minibatch)"


@dataclass(frozen=True, slots=True)
class Difference:
    """A panel of the difference between each run's logged loss and that of a reference run, per step."""

    title: str
    reference: str
    runs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StepTimes:
    """A panel of milliseconds per step: the median of each run and its repeats, and their range."""

    title: str
    runs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TrainVal:
    """A panel of one run's training and validation loss against epochs."""

    title: str
    run: str


@dataclass(frozen=True, slots=True)
class Weights:
    """A panel of one run's histogram of a weight, before training and after it."""

    title: str
    run: str
    weight: str


Panel = Curves | Difference | StepTimes | TrainVal | Weights


@dataclass(frozen=True, slots=True)
class Lesson:
    """One lesson: its runs and its figure.

    Args:
        number: 1 to 15.
        name: name of its figure's file.
        title: heading of the figure.
        description: what the figure shows and why, for the README.
        runs: its runs, in the order of the legend.
        panels: panels of the figure, left to right, row by row.
        columns: number of panels in a row.
        quick: overrides of all its runs with `--quick`, after `DIGITS`.
        quick_note: the reason for the changes of `quick`, if it is not obvious.
        sequential: whether its runs are trained one at a time, because it shows times.
        data: `cifar` if the full run needs CIFAR-10.
    """

    number: int
    name: str
    title: str
    description: str
    runs: tuple[Run, ...]
    panels: tuple[Panel, ...]
    columns: int = 2
    quick: tuple[str, ...] = ("train.epochs=20", "log.every=5")
    quick_note: str = ""
    sequential: bool = False
    data: Literal["mnist", "cifar"] = "mnist"

    @property
    def heading(self) -> str:
        """The title without the lesson's number."""
        title = self.title.partition(": ")[2]
        return title if title.startswith("torch") else title[0].upper() + title[1:]


def changed_by_quick(lesson: Lesson) -> str:
    """Return a description of what `--quick` changes in the configs, except data and logging."""

    def describe(overrides: tuple[str, ...]) -> str:
        pairs = [text.partition("=") for text in overrides if not text.startswith("log.")]
        return ", ".join(f"{key.partition('.')[2]} {value}" for key, _, value in pairs)

    parts = [
        describe(lesson.quick),
        *(f"{run.label}: {describe(run.quick)}" for run in lesson.runs if describe(run.quick)),
    ]
    text = "changed by --quick: " + "; ".join(filter(None, parts))
    return f"{text} ({lesson.quick_note})" if lesson.quick_note else text


VAL_ACCURACY = Curves(
    "validation accuracy",
    "val_accuracy",
    x="epoch",
    log_y=False,
    smooth=False,
    percent=True,
    ylabel="validation accuracy (%)",
)
VAL_LOSS = Curves("validation loss", "val_loss", x="epoch", smooth=False, ylabel="validation loss")
LOSS = Curves("training loss")
RATE = Curves("learning rate", "lr", smooth=False, ylabel="learning rate")

LESSONS = (
    Lesson(
        1,
        "01_sgd_by_hand",
        "Lesson 1: gradient descent by hand, batch 1 against batch 64",
        "The gradient of one image is a noisy estimate: with batch size 1 the loss fluctuates strongly from "
        "step to step, with 64 only a little. Per image seen, batch size 1 still learns faster, because it "
        "takes 64 times as many steps.",
        (
            Run("batch 1", "01_sgd_by_hand", ("data.batch_size=1",)),
            Run("batch 64", "01_sgd_by_hand", quick=("log.every=1",)),
        ),
        (
            Curves("by step", log_x=True),
            Curves("by image seen", x="samples", log_x=True),
        ),
        quick=("train.epochs=10", "log.every=30"),
    ),
    Lesson(
        2,
        "02_learning_rate",
        "Lesson 2: a learning rate too high, right, too low",
        "With a rate of 1 the steps overshoot the minimum and the loss oscillates. With 1e-4 the loss "
        "decreases too slowly. With 1e-2 the network learns.",
        tuple(Run(f"lr {lr}", "02_learning_rate", (f"optimizer.lr={lr}",)) for lr in ("1", "1e-2", "1e-4")),
        (LOSS, VAL_ACCURACY),
        quick=("train.epochs=20", "log.every=2", "optimizer.momentum=0.9"),
        quick_note="with 64 inputs a rate of 1 does not overshoot without momentum",
    ),
    Lesson(
        3,
        "03_by_hand_against_torch",
        "Lesson 3: torch.optim.SGD against the same rule by hand",
        "`param.sub_(grad, alpha=lr)` equals torch.optim.SGD bit for bit: the difference is exactly 0 at "
        "every step. `param - lr * grad` rounds twice: the losses differ in their last bits, and the "
        "curve looks the same.",
        (
            Run("torch.optim.SGD", "03_torch_sgd"),
            Run("param.sub_(grad, alpha=lr)", "03_by_hand"),
            Run("param - lr * grad", "03_by_hand", ("optimizer.textbook=true",)),
        ),
        (
            LOSS,
            Difference(
                "difference of the loss from torch's",
                "torch.optim.SGD",
                ("param.sub_(grad, alpha=lr)", "param - lr * grad"),
            ),
        ),
        quick=("train.epochs=20", "log.every=1"),
    ),
    Lesson(
        4,
        "04_momentum",
        "Lesson 4: momentum, dampening, Nesterov",
        "Momentum m sums past gradients, so the steps become up to 1 / (1 - m) times as large: 0.9 is faster "
        "than 0, and 0.99 overshoots. Dampening 0.9 scales the sum down again, which removes the speedup. "
        "Nesterov momentum makes little difference here.",
        (
            *(
                Run(f"momentum {m}", "04_momentum", (f"optimizer.momentum={m}",))
                for m in ("0", "0.5", "0.9", "0.99")
            ),
            Run("0.9, dampening 0.9", "04_momentum", ("optimizer.momentum=0.9", "optimizer.dampening=0.9")),
            Run("0.9, Nesterov", "04_momentum", ("optimizer.momentum=0.9", "optimizer.nesterov=true")),
        ),
        (LOSS, VAL_ACCURACY),
        quick_note="on the digits, momentum 0.99 does not overshoot: its training loss falls the fastest",
    ),
    Lesson(
        5,
        "05_adaptive",
        "Lesson 5: a learning rate per weight",
        "The hand-written Adagrad adds eps inside the root, where 1e-10 acts like 1e-5 outside: its curve is "
        "close to torch's, but not equal. Adagrad's steps only shrink, so it becomes slower than the others; "
        "RMSprop, Adadelta and Adam discount old gradients. Centering changes RMSprop little, and AdamW's "
        "small decay changes Adam little.",
        (
            Run("Adagrad by hand", "05_adagrad_by_hand"),
            Run("Adagrad", "05_adagrad"),
            Run("RMSprop", "05_rmsprop"),
            Run("RMSprop, centered", "05_rmsprop", ("optimizer.centered=true",)),
            Run("Adadelta", "05_adadelta"),
            Run("Adam", "05_adam"),
            Run("AdamW", "05_adamw"),
        ),
        (LOSS, VAL_LOSS),
    ),
    Lesson(
        6,
        "06_weight_decay",
        "Lesson 6: weight decay, and Adam's two kinds",
        "1e-4 and 1e-3 have little effect; 1e-1 under-fits, because the decay shrinks the weights faster "
        "than the gradients increase them. With Adam, 0.1 is far too strong as an L2 penalty, because Adam "
        "divides the penalty's gradient by the gradients' size; decoupled (AdamW) it is mild.",
        (
            *(
                Run(f"SGD, {w}", "06_weight_decay", (f"optimizer.weight_decay={w}",))
                for w in ("0", "1e-4", "1e-3", "1e-1")
            ),
            Run("Adam, none", "06_adam_decay", ("optimizer.weight_decay=0",)),
            Run("Adam, L2 0.1", "06_adam_decay"),
            Run("Adam, decoupled 0.1", "06_adam_decay", ("optimizer.decoupled_weight_decay=true",)),
        ),
        (
            Curves("SGD with momentum", runs=("SGD, 0", "SGD, 1e-4", "SGD, 1e-3", "SGD, 1e-1")),
            Curves("Adam", runs=("Adam, none", "Adam, L2 0.1", "Adam, decoupled 0.1")),
        ),
    ),
    Lesson(
        7,
        "07_schedules",
        "Lesson 7: learning-rate decay",
        "At a constant 0.1 the loss oscillates. A lower rate stops the oscillation: at once where it drops "
        "(StepLR, set by hand at epoch 3), gradually with cosine and inverse time. With too large a decay "
        "(0.05) the rate becomes too small too early, and the loss stays high.",
        (
            Run("constant (decay 0)", "07_constant"),
            Run("StepLR", "07_step", quick=("scheduler.step_size=8",)),
            Run("cosine", "07_cosine"),
            Run("inverse time 0.005", "07_inverse_time"),
            Run("inverse time 0.05", "07_inverse_time", ("scheduler.decay=0.05",)),
            Run("set by hand", "07_by_hand", quick=("scheduler.table={12: 0.01}",)),
        ),
        (LOSS, RATE),
        quick=("train.epochs=20", "log.every=5", "optimizer.lr=0.5"),
    ),
    Lesson(
        8,
        "08_parameter_groups",
        "Lesson 8: parameter groups with rates of their own",
        "A hundredth of the rate slows learning a little for the output layer, and more for the hidden "
        "layer, which has most of the weights. A rate of 0 freezes the hidden layer, and the output layer "
        "learns from random features.",
        (
            Run("0.05 for all", "08_one_rate"),
            Run("output 5e-4", "08_fast_hidden"),
            Run("hidden 5e-4", "08_fast_output"),
            Run("hidden frozen", "08_frozen_hidden"),
        ),
        (LOSS, VAL_ACCURACY),
        quick_note="on the digits, with 64 inputs instead of 784, the output layer's rate matters more",
    ),
    Lesson(
        9,
        "09_zero_grad",
        "Lesson 9: forgetting zero_grad",
        "Gradients accumulate, so each step includes all earlier gradients, like momentum 1 without decay. "
        "The loss falls faster at first, then overshoots and oscillates without converging.",
        (
            Run("zero_grad() at every step", "09_zero_grad"),
            Run("zero_grad() forgotten", "09_zero_grad", ("train.zero_grad=never",)),
        ),
        (Curves("first steps", log_x=True), LOSS),
        quick=("train.epochs=20", "log.every=1"),
    ),
    Lesson(
        10,
        "10_losses",
        "Lesson 10: three losses on one problem",
        "Compare the accuracies, because the losses have different units. MSE is slightly below cross "
        "entropy. The best constant output under L1 is 0 for every class, and some classes stay there for "
        "epochs.",
        (
            Run("cross entropy", "10_losses"),
            Run("MSE", "10_losses", ("loss=mse",)),
            Run("L1", "10_losses", ("loss=l1",)),
        ),
        (LOSS, VAL_ACCURACY),
    ),
    Lesson(
        11,
        "11_overfitting",
        "Lesson 11: over-fitting, and the remedies",
        "With few images the training loss goes to zero while the validation loss reaches a minimum and "
        "rises. Ten times the data and augmentation help most. The L2 penalty keeps the training loss "
        "higher and the rise smaller, dropout delays it, and early stopping ends the run soon after the "
        "minimum.",
        (
            Run("few images", "11_overfit"),
            Run("more data", "11_more_data", quick=("data.limit=1000", "train.epochs=10")),
            Run("augmentation", "11_augmentation"),
            Run("L2 penalty", "11_regularisation"),
            Run("dropout", "11_dropout"),
            Run("early stopping", "11_early_stopping"),
        ),
        (
            TrainVal("few images, nothing done", "few images"),
            TrainVal("ten times the data", "more data"),
            TrainVal("augmentation", "augmentation"),
            TrainVal("L2 penalty 0.01", "L2 penalty"),
            TrainVal("dropout 0.5", "dropout"),
            TrainVal("early stopping", "early stopping"),
        ),
        columns=3,
        quick=(
            "data.limit=100",
            "data.batch_size=16",
            "optimizer.lr=3e-3",
            "train.epochs=100",
            "log.every=5",
        ),
    ),
    Lesson(
        12,
        "12_initialisation",
        "Lesson 12: initial weights and the first epoch",
        "Weights of size 1 sum over 784 inputs to huge activations: the loss starts in the thousands, and "
        "the first epoch only reduces it. With only positive weights (uniform) the accuracy stays at "
        "chance. Xavier and Kaiming scale by the layer's width and learn from the first step.",
        tuple(
            Run(label, "12_init", (f"init.weight={option}",))
            for label, option in (
                ("normal(0, 1)", "{name: normal_}"),
                ("uniform(0, 1)", "{name: uniform_}"),
                ("Xavier", "{name: xavier_uniform_}"),
                ("Kaiming", "{name: kaiming_normal_, nonlinearity: relu}"),
            )
        ),
        (
            *(
                Weights(f"{label}: second layer", label, "hidden2.weight")
                for label in ("normal(0, 1)", "uniform(0, 1)", "Xavier", "Kaiming")
            ),
            Curves("training loss", log_x=True),
            VAL_ACCURACY,
        ),
        columns=3,
        quick=("train.epochs=3", "log.every=1"),
        quick_note="on the digits, normal(0, 1) reaches the highest accuracy, although its loss stays high",
    ),
    Lesson(
        13,
        "13_convolutional",
        "Lesson 13: the tutorial CNN with SGD and Adam, and a residual network at 96 pixels",
        "SGD at 0.01 without momentum is slow, because the gradients are small. Adam's steps do not depend "
        "on the gradients' size; it is faster and finally over-fits its 9,000 images (training loss far "
        "below, accuracy no longer rising). The residual network, with momentum, warm-up and cosine decay, "
        "starts slower, still improves when Adam does not, and reaches the highest accuracy, with 2.6 times "
        "the multiplications per image. The cause is the network and its schedule, not the resolution: the "
        "images were enlarged from 32 pixels.",
        (
            Run("CNN, SGD 0.01", "13_cnn_sgd"),
            Run("CNN, Adam 1e-3", "13_cnn_adam"),
            Run(
                "ResNet-8 at 96 pixels",
                "13_resnet96",
                quick=("data.resize=96", "data.limit=256", "data.batch_size=16", "scheduler.warmup=10"),
            ),
        ),
        (LOSS, VAL_ACCURACY),
        quick=("data.resize=32", "train.epochs=6", "log.every=1"),
        data="cifar",
    ),
    Lesson(
        14,
        "14_implementations",
        "Lesson 14: one rule, three implementations; maximize; AMSGrad",
        "foreach equals the plain loop bit for bit, fused up to rounding. They differ in the time per step "
        "on your machine (bars: median of five interleaved runs, lines: fastest to slowest). With maximize "
        "the loss rises. AMSGrad divides by the largest mean square so far and hardly differs here.",
        (
            Run("plain", "14_adam"),
            Run("foreach", "14_adam", ("optimizer.foreach=true",)),
            Run("fused", "14_adam", ("optimizer.fused=true",)),
            Run("AMSGrad", "14_adam", ("optimizer.amsgrad=true",)),
            Run("SGD, maximize", "14_maximize"),
            # Interleaved, so that a slow minute of the machine affects all three.
            *(
                Run(f"{label}, seed {seed}", "14_adam", (*chosen, f"seed={seed}"), repeats=label)
                for seed in range(1, 5)
                for label, chosen in (
                    ("plain", ()),
                    ("foreach", ("optimizer.foreach=true",)),
                    ("fused", ("optimizer.fused=true",)),
                )
            ),
        ),
        (
            Difference("difference of the loss from plain's", "plain", ("foreach", "fused")),
            StepTimes("time per step, one thread", ("plain", "foreach", "fused")),
            Curves("same rule, or not", runs=("plain", "AMSGrad", "SGD, maximize")),
        ),
        columns=3,
        sequential=True,
    ),
    Lesson(
        15,
        "15_why_stochastic",
        "Lesson 15: why stochastic: 1,000 images, each there ten times",
        "A tenth of the repeated set gives the same gradient as all of it: the loss per step is the same, "
        "at a tenth of the work. Per image seen, the minibatch is therefore ten times as fast.",
        (
            Run("all 10,000 per step", "15_full_batch"),
            Run("1,000 per step", "15_full_batch", ("data.batch_size=1000",)),
        ),
        (
            Curves("by step: the same", smooth=False),
            Curves("by image seen: a tenth of the work", x="samples", log_x=True, smooth=False),
        ),
        quick=("train.steps=200",),
    ),
)
