"""The shape of an experiment's description: every structural key, its type, meaning, unit and default.

Knows the sections and their own keys. What options a component (a model, an optimizer ...) takes is not
known here: `Component` keeps them as they came, and the second pass of validation holds them against the
option models that the catalog derives from the builders' signatures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_serializer, model_validator

FORMAT: Literal[1] = 1

Count = Annotated[int, Field(ge=1)]
Amount = Annotated[float, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]

Verb = Literal["name", "group", "skip", "resume", "unset"]


@dataclass(frozen=True, slots=True)
class MayDiffer:
    """Marks a key in which two configs may differ and still be treated as the same run by some verbs.

    A key without this mark belongs to a run's identity everywhere; when in doubt, leave it unmarked.

    Args:
        name: the key is left out of the names of run directories.
        group: `compare` may put both runs into one group (and says that they differ).
        skip: `--skip-existing` and a sweep may take one run for the other.
        resume: the key may change when a run is resumed.
        unset: null or `auto` in the wanted config accepts whatever an existing run used.
    """

    name: bool = False
    group: bool = False
    skip: bool = False
    resume: bool = False
    unset: bool = False


# Where the same numbers are read from or written to.
PLACE = MayDiffer(name=True, group=True, skip=True, resume=True, unset=True)
# How a run executes: the last bits of its numbers depend on it.
EXECUTION = MayDiffer(name=True, group=True, resume=True, unset=True)
ENGINE = MayDiffer(name=True, group=True, unset=True)
# When the state is saved.
SAVING = MayDiffer(group=True, skip=True, resume=True)
# What is written beside the losses; the columns of a table are fixed when a run starts.
RECORDS = MayDiffer(name=True, group=True)
# How long a run goes on: a longer one begins alike.
LENGTH = MayDiffer(resume=True)


def _stays_below(name: str) -> str:
    """Return a name that is a folder below another, or folders in one another: `mnist`, `lessons/mnist`."""
    if not name.isprintable():
        raise ValueError("a name has printable characters only")
    for part in name.split("/"):
        if part in ("", ".", ".."):
            raise ValueError("a name stays below --runs: no '..', and no '/' at an end")
        if len(part.encode()) > 255:
            raise ValueError("a name has at most 255 bytes, which is what a file system takes")
    return name


FolderName = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_stays_below)]


class Section(BaseModel):
    """A mapping of the config: unknown keys are errors, types are strict, numbers finite, values fixed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class WithOptions(Section):
    """A mapping whose other keys are options of a builder: they are kept in `options`, and written beside."""

    options: dict[str, Any] = Field(default_factory=dict, exclude=True)

    @model_validator(mode="before")
    @classmethod
    def _gather_options(cls, value: Any) -> Any:
        if isinstance(value, str) and "name" in cls.model_fields:
            return {"name": value}
        if not isinstance(value, dict) or "options" in value:
            return value
        own = {key: item for key, item in value.items() if key in cls.model_fields}
        return own | {"options": {key: item for key, item in value.items() if key not in cls.model_fields}}

    @model_serializer(mode="wrap")
    def _spread_options(self, handler: Any) -> dict[str, Any]:
        own: dict[str, Any] = handler(self)
        first = next(iter(own))  # the name, or the match: what a reader looks for
        return {first: own.pop(first)} | self.options | own


class Component(WithOptions):
    """A part chosen by name, with its options beside the name: `{name: mlp, hidden: [200]}`.

    A bare string stands for the name alone. Subclasses add structural keys (`label`, `interval` ...); every
    other key is an option of the named builder.
    """

    name: str = Field(
        description="Which one (see `optlab list`), or your own: `file.py:Thing`, `package.module:Thing`."
    )


class SeedConfig(Section):
    """The seeds of the four random streams; `seed: 0` sets all of them."""

    init: Seed = Field(0, description="Initial weights.")
    batches: Seed = Field(0, description="Order of the training samples.")
    augmentation: Seed = Field(0, description="Parameters of the augmentations.")
    dropout: Seed = Field(
        0, description="Dropout masks; torch's, Python's and numpy's global generators while training."
    )

    @model_validator(mode="before")
    @classmethod
    def _one_for_all(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            return dict.fromkeys(cls.model_fields, value)
        return value


class MeanStd(Section):
    """Normalisation by given numbers: (pixel / 255 - mean) / std, one number or one per channel."""

    mean: list[float] = Field(description="Mean per channel, in units of pixel / 255 (images) or as given.")
    std: list[Amount] = Field(description="Standard deviation per channel, above 0.")


class DataConfig(Component):
    """The data set, its split, its batches and what is done to every image."""

    batch_size: Count | Literal["full"] = Field(
        64, description="Samples per step; `full` = the whole training split."
    )
    eval_batch_size: Annotated[Count, MayDiffer(group=True)] = Field(
        1000, description="Samples per forward pass of an evaluation."
    )
    val_size: Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, lt=1)] = Field(
        0,
        description="Images taken from training for validation: a count, or a fraction below 1; 0 = none.",
    )
    val_from: Literal["random", "end"] = Field(
        "random", description="Which images validate: a random draw by `split_seed`, or the last ones."
    )
    split_seed: Seed = Field(
        0, description="Seed of the validation split; apart from `seed`, the same for all runs."
    )
    limit: Count | None = Field(
        None, description="Use only so many training images (quick trials); null = all."
    )
    repeat: Count = Field(
        1, description="Copies of the training split one after the other (the redundancy lesson)."
    )
    shuffle: Literal["each_epoch", "once", "never"] = Field(
        "each_epoch", description="When the order is drawn."
    )
    drop_last: bool = Field(False, description="Leave out the last batch of an epoch when it is not full.")
    normalize: MeanStd | Literal["dataset"] | None = Field(
        None,
        description="Per-channel mean and std, or `dataset`: the training split's own; null = pixels / 255.",
    )
    resize: Count | None = Field(
        None, description="Bilinear resize of every batch to so many pixels; null = as is."
    )
    pad: Count | None = Field(
        None, description="Zero pixels added on every side (after resize); null = none."
    )
    augment: list[Component] = Field(
        default_factory=list, description="Augmentations of the training batches, in this order."
    )


class LossConfig(Component):
    """The loss, with optional penalties on the weights (parameters of two or more dimensions)."""

    l1: Annotated[float, Field(ge=0)] = Field(
        0.0, description="Adds l1 * sum |w| over the weights to the objective."
    )
    l2: Annotated[float, Field(ge=0)] = Field(
        0.0, description="Adds l2 / 2 * sum w^2 over the weights to the objective."
    )


class Match(Section):
    """Which parameters are meant; every condition that is given must hold."""

    name: str | None = Field(None, description="Shell pattern on the parameter's name, as `*.bias`.")
    kind: str | None = Field(
        None, description="Class of the layer that owns it, as `Linear`, `Conv2d`, `*Norm*`."
    )
    ndim: Annotated[int, Field(ge=0)] | None = Field(None, description="Exactly so many dimensions.")
    min_ndim: Annotated[int, Field(ge=0)] | None = Field(None, description="At least so many dimensions.")

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if all(condition is None for condition in (self.name, self.kind, self.ndim, self.min_ndim)):
            raise ValueError("a match needs name, kind, ndim or min_ndim")
        return self


class Target(Section):
    """The initialisation of one layer's weight and bias; what is left out keeps torch's own."""

    weight: Component | None = Field(
        None, description="A function of torch.nn.init for weights; null = torch's own."
    )
    bias: Component | None = Field(
        None, description="A function of torch.nn.init for biases; null = torch's own."
    )


class LayerInit(Target):
    """The initialisation of the layers that match."""

    match: Match = Field(description="Which parameters, by name pattern, layer kind or dimensionality.")


class InitConfig(Target):
    """The initial weights: for all layers, and apart for those that match (first match wins)."""

    layers: list[LayerInit] = Field(default_factory=list, description="Exceptions for matching layers.")


class GroupConfig(WithOptions):
    """A parameter group with options of its own (lr, weight_decay ...)."""

    match: Match = Field(description="Which parameters belong to it; the first group that matches wins.")
    label: str | None = Field(None, description="Its name in logs; null = its pattern.")


class OptimizerConfig(Component):
    """One optimizer, the parameters it owns and the groups among them."""

    label: str | None = Field(
        None, description="Its name in logs and overrides; null = the optimizer's name."
    )
    match: Match | None = Field(
        None, description="Which parameters it owns; null = those that no other optimizer owns."
    )
    groups: list[GroupConfig] = Field(
        default_factory=list, description="Parameter groups; the rest is the last group."
    )


class SchedulerConfig(Component):
    """One learning-rate schedule."""

    interval: Literal["epoch", "step"] = Field(
        "epoch", description="What its counts (T_max, step_size ...) count."
    )
    warmup: Annotated[int, Field(ge=0)] = Field(
        0, description="Linear warm-up over so many intervals before it starts; 0 = none."
    )
    monitor: str | None = Field(
        None,
        description="What ReduceLROnPlateau watches; null = val_loss, or train_loss without validation.",
    )
    until: Count | None = Field(
        None, description="In a list: the interval at which the next schedule takes over."
    )


class EarlyStopping(Section):
    """Stop when a metric has not improved for `patience` evaluations."""

    metric: str = Field("val_loss", description="A column of epochs.csv.")
    patience: Count = Field(5, description="Evaluations without improvement before stopping.")
    min_delta: Annotated[float, Field(ge=0)] = Field(
        0.0, description="Smallest change that counts as improvement."
    )
    mode: Literal["min", "max"] | None = Field(
        None, description="null = max for accuracies, min for the rest."
    )


class Every(Section):
    """A rhythm: every so many epochs or every so many steps (one of the two)."""

    epochs: Amount | None = Field(None, description="Every so many epochs; fractions allowed.")
    steps: Count | None = Field(None, description="Every so many steps.")

    @model_validator(mode="before")
    @classmethod
    def _epochs_alone(cls, value: Any) -> Any:
        return {"epochs": value} if isinstance(value, int | float) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give either epochs or steps")
        return self


class CheckpointEvery(Every):
    """A rhythm of checkpoints: as `Every`, or every so many seconds of training."""

    seconds: Amount | None = Field(None, description="Every so many seconds of training.")

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if sum(value is not None for value in (self.epochs, self.steps, self.seconds)) != 1:
            raise ValueError("give one of epochs, steps and seconds")
        return self


class TrainConfig(Section):
    """How long, where and how the loop runs."""

    epochs: Annotated[Annotated[float, Field(gt=0, le=1e12)] | None, LENGTH] = Field(
        None, description="Length in epochs, fractions allowed; null = `steps` rules."
    )
    steps: Annotated[Count | None, LENGTH] = Field(
        None, description="Length in updates; null = `epochs` rules."
    )
    seconds: Annotated[Amount | None, LENGTH] = Field(
        None, description="Stop after so many seconds of training; null = no limit."
    )
    device: Annotated[str, EXECUTION] = Field("auto", description="auto | cpu | cuda | cuda:N.")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Autocast type of the forward pass; float16 scales the loss."
    )
    engine: Annotated[Literal["auto", "eager", "compiled"], ENGINE] = Field(
        "eager",
        description="How a step runs: `eager` torch, `compiled` beforehand (some seconds; for a deep "
        "network a minute or two); `auto` compiles long runs on a CPU, where a C++ compiler is.",
    )
    threads: Annotated[Count | None, EXECUTION] = Field(
        None,
        description="CPU threads of torch; null = OMP_NUM_THREADS, else the usable cores, or one (for all "
        "that the run does) where the forward pass of a batch is too small for more.",
    )
    deterministic: bool = Field(
        False, description="Only deterministic kernels (torch.use_deterministic_algorithms)."
    )
    accumulate: Count = Field(1, description="Batches whose gradients are averaged into one update.")
    clip_grad_norm: Amount | None = Field(
        None, description="Largest total gradient norm; null = no clipping."
    )
    clip_grad_value: Annotated[float, Field(gt=0, le=3.4e38)] | None = Field(  # float32 ends there
        None, description="Largest gradient element; null = no clipping."
    )
    zero_grad: Literal["every_step", "never"] = Field(
        "every_step", description="`never` shows what forgetting it does: gradients add up."
    )
    eval_every: Every = Field(
        Every(epochs=1), description="Interval of the evaluations: epochs, or {steps: N}."
    )
    eval_train: Annotated[bool, MayDiffer(group=True)] = Field(
        False, description="Evaluate the training split too (eval mode): train_eval_loss ..."
    )
    early_stopping: EarlyStopping | None = Field(None, description="null = train to the end.")
    select: str | None = Field(
        None,
        description="Metric that chooses the best checkpoint; null = val_accuracy, else val_loss.",
    )
    checkpoint_every: Annotated[CheckpointEvery | None, SAVING] = Field(
        None,
        description="Interval of last.pt, besides the end of the run: epochs, {steps: N} or {seconds: S}; "
        "null = at every evaluation.",
    )
    test: Annotated[Literal["end", "never"], MayDiffer(group=True, resume=True)] = Field(
        "end", description="Read the test split once, at the end, or not at all."
    )
    detect_anomaly: Annotated[bool, MayDiffer(resume=True)] = Field(
        False,
        description="Look after every step for NaN and infinity in the loss, batch, gradients and weights; "
        "end the run there and name the first parameter.",
    )
    max_loss: Amount | None = Field(
        None, description="A loss above it counts as diverged; null = only NaN and infinity do."
    )

    @model_validator(mode="after")
    def _has_a_length(self) -> Self:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("epochs and steps are both set; give one, and null for the other")
        if self.epochs is None and self.steps is None and self.seconds is None:
            raise ValueError("the run has no length; give epochs, steps or seconds")
        return self


class LogConfig(Section):
    """What is written besides the losses."""

    every: Annotated[Count, RECORDS] = Field(30, description="Steps between two rows of steps.csv.")
    gradients: Annotated[bool, RECORDS] = Field(
        False, description="Gradient norms in steps.csv: grad_norm (total) and one per parameter."
    )
    histograms: Annotated[bool, RECORDS] = Field(
        False, description="Histograms of the weights, before training and at every evaluation."
    )
    plots: Annotated[list[Literal["png", "svg", "pdf"]], PLACE] = Field(
        ["png"], description="File formats of the figures; an empty list draws none."
    )


class Config(Section):
    """One experiment, complete."""

    format: Literal[1] = Field(FORMAT, description="Version of this file's format.")
    name: Annotated[FolderName, MayDiffer(group=True)] = Field(
        "experiment", description="Name of the experiment: runs/<name>/."
    )
    seed: Annotated[SeedConfig, MayDiffer(group=True)] = Field(
        SeedConfig(), description="One seed for all streams, or one per stream."
    )
    data: DataConfig = Field(description="The data set, its split and batches.")
    model: Component = Field(description="The network.")
    init: InitConfig | None = Field(None, description="Initial weights; null = torch's own.")
    loss: LossConfig = Field(LossConfig(name="cross_entropy"), description="The loss.")
    optimizer: list[OptimizerConfig] = Field(
        min_length=1, description="One optimizer, or a list of labelled ones."
    )
    scheduler: list[SchedulerConfig] = Field(
        default_factory=list, description="null, one schedule, or a list that follows one another."
    )
    train: TrainConfig = Field(description="Length, device, precision and the rest of the loop.")
    log: LogConfig = Field(default_factory=LogConfig, description="What is written.")

    @model_validator(mode="before")
    @classmethod
    def _lists(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        value = dict(value)
        if isinstance(value.get("optimizer"), str | dict):
            value["optimizer"] = [value["optimizer"]]
        if "scheduler" in value and not isinstance(value["scheduler"], list):
            value["scheduler"] = [] if value["scheduler"] is None else [value["scheduler"]]
        return value


_IMPLEMENTATION = {
    "fused": MayDiffer(group=True, resume=True, unset=True),
    "foreach": MayDiffer(group=True, resume=True, unset=True),
    "capturable": MayDiffer(group=True),
    "differentiable": MayDiffer(group=True),
}

OPTIONS: Mapping[type[WithOptions], Mapping[str, MayDiffer]] = {
    DataConfig: {"root": PLACE, "download": PLACE, "path": MayDiffer(name=True, group=True)},
    OptimizerConfig: _IMPLEMENTATION,
    GroupConfig: _IMPLEMENTATION,
}
"""The same for options of components, whose signatures are torch's or the data sets' own."""
