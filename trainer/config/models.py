"""The config: every structural key with its type, meaning, unit and default.

These models cover the sections and their own keys. The options of a component (a model, an optimizer ...)
are not declared here: `Component` stores them unchanged, and `load` validates them against the models that
the catalog derives from the signatures of the builders.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_serializer,
    model_validator,
)

FORMAT: Literal[1] = 1

Count = Annotated[int, Field(ge=1)]
Amount = Annotated[float, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]

TaskName = Literal["classification", "regression", "reconstruction", "next_token", "objective"]
Verb = Literal["name", "group", "skip", "resume", "unset"]


@dataclass(frozen=True, slots=True)
class MayDiffer:
    """Marks a key that may differ between two runs that some verbs treat as the same run.

    A key without this mark is part of a run's identity for every verb. When in doubt, leave a key unmarked.

    Args:
        name: names of run directories omit the key.
        group: `compare` may put runs with different values into one group, and reports the difference.
        skip: `--skip-existing` and sweeps reuse an existing run that has another value.
        resume: the value may change when a run is resumed.
        unset: null or `auto` in the requested config accepts any value of an existing run.
    """

    name: bool = False
    group: bool = False
    skip: bool = False
    resume: bool = False
    unset: bool = False


# Locations and file formats, which do not change any number.
PLACE = MayDiffer(name=True, group=True, skip=True, resume=True, unset=True)
# How a run executes, which changes its numbers by rounding only.
EXECUTION = MayDiffer(name=True, group=True, resume=True, unset=True)
ENGINE = MayDiffer(name=True, group=True, unset=True)
# When checkpoints are saved.
SAVING = MayDiffer(group=True, skip=True, resume=True)
# What is logged in addition to the losses; the columns of a table cannot change after the start of a run.
RECORDS = MayDiffer(name=True, group=True)
# The length of a run: a longer run starts with the same steps.
LENGTH = MayDiffer(resume=True)


def _check_relative_path(name: str) -> str:
    """Return a name that is a relative path of folders, as `mnist` or `lessons/mnist`."""
    if not name.isprintable():
        raise ValueError("a name must have only printable characters")
    for part in name.split("/"):
        if part in ("", ".", ".."):
            raise ValueError("a name must be a relative path without '.', '..' or a '/' at either end")
        if len(part.encode()) > 255:
            raise ValueError("a part of a name may have at most 255 bytes, the limit of file systems")
    return name


FolderName = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_check_relative_path)]


class Section(BaseModel):
    """A section of the config. Unknown keys are errors, types are strict and numbers are finite."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class WithOptions(Section):
    """A section in which every undeclared key is an option of a builder; `options` stores these."""

    options: dict[str, Any] = Field(default_factory=dict, exclude=True)

    @model_validator(mode="before")
    @classmethod
    def _gather_options(cls, value: Any) -> Any:
        if isinstance(value, str) and "name" in cls.model_fields:
            return {"name": value}
        if not isinstance(value, dict) or "options" in value:
            return value
        fields = cls.model_fields  # a slow property of pydantic: read per key, it takes a third of validation
        own = {key: item for key, item in value.items() if key in fields}
        return own | {"options": {key: item for key, item in value.items() if key not in fields}}

    @model_serializer(mode="wrap")
    def _spread_options(self, handler: Any) -> dict[str, Any]:
        own: dict[str, Any] = handler(self)
        first = next(iter(own))  # the name or the match comes first, for readability
        return {first: own.pop(first)} | self.options | own


class Component(WithOptions):
    """A component: its name and its options in one mapping, `{name: mlp, hidden: [200]}`.

    A string is short for a component without options. Subclasses add structural keys (`label`, `interval`
    ...); every other key is an option of the named builder.
    """

    name: str = Field(
        description="A name from `optlab list`, or an import path: `file.py:Thing`, `package.module:Thing`."
    )


class SeedConfig(Section):
    """The seeds of the four random streams; a single number sets all of them."""

    init: Seed = Field(0, description="Seed of the initial weights.")
    batches: Seed = Field(0, description="Seed of the order of the training samples.")
    augmentation: Seed = Field(0, description="Seed of the random augmentations.")
    dropout: Seed = Field(
        0, description="Seed of the dropout masks: the global generators of torch, Python and NumPy."
    )

    @model_validator(mode="before")
    @classmethod
    def _expand_seed(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            return dict.fromkeys(cls.model_fields, value)
        return value


class MeanStd(Section):
    """Normalization by the given numbers, (x - mean) / std, with x = pixel / 255 for images."""

    mean: list[float] = Field(
        description="Mean: one number, or one per channel; for images in units of pixel / 255."
    )
    std: list[Amount] = Field(description="Standard deviation, above 0: one number, or one per channel.")


class DataConfig(Component):
    """The data set, its validation split, its batches and its preprocessing."""

    batch_size: Count | Literal["full"] = Field(
        64, description="Samples per batch; `full` = the whole training split in one batch."
    )
    eval_batch_size: Annotated[Count, MayDiffer(group=True)] = Field(
        1000, description="Samples per batch during evaluation."
    )
    val_size: Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, lt=1)] = Field(
        0,
        description="Training samples to use for validation: a count, or a fraction below 1; 0 = none.",
    )
    val_from: Literal["random", "end", "test"] = Field(
        "random",
        description="Which samples to use for validation: a `random` draw, those at the `end`, or the `test` "
        "split, for curves of the test loss; the results on the test split are then biased.",
    )
    split_seed: Seed = Field(
        0, description="Seed of the validation split, independent of `seed`: runs share one split."
    )
    limit: Count | None = Field(
        None, description="Maximum number of training samples, for quick trials; null = all."
    )
    repeat: Count = Field(1, description="How many times every training sample occurs in an epoch.")
    shuffle: Literal["each_epoch", "once", "never"] = Field(
        "each_epoch", description="When to shuffle the training samples."
    )
    drop_last: bool = Field(False, description="Drop the last batch of an epoch if it is not full.")
    normalize: MeanStd | Literal["dataset"] | None = Field(
        None,
        description="Mean and std to normalize by; `dataset` = those of the training split; null = none, "
        "pixels are only divided by 255.",
    )
    resize: Count | None = Field(
        None, description="Height and width, in pixels, to resize images to (bilinear); null = no resize."
    )
    pad: Count | None = Field(
        None, description="Zero padding on every side, in pixels, after the resize; null = none."
    )
    augment: list[Component] = Field(
        default_factory=list, description="Augmentations of the training batches, applied in this order."
    )


class ModelConfig(Component):
    """The network."""

    output: str | Annotated[int, Field(ge=0)] | None = Field(
        None,
        description="The prediction in the tuple or dict that a model returns: its key, or its position from "
        "0; null = the model returns a tensor, or a dict with the key `output`.",
    )


class LossConfig(Component):
    """The loss, with optional penalties on the weights (parameters with two or more dimensions)."""

    l1: Annotated[float, Field(ge=0)] = Field(
        0.0, description="Coefficient of the L1 penalty: adds l1 * sum(|w|) to the loss; 0 = none."
    )
    l2: Annotated[float, Field(ge=0)] = Field(
        0.0, description="Coefficient of the L2 penalty: adds l2 / 2 * sum(w^2) to the loss; 0 = none."
    )


class Match(Section):
    """Selects parameters; a parameter must satisfy every condition that is given."""

    name: str | None = Field(None, description="Shell pattern for the name, as `*.bias`; null = any.")
    kind: str | None = Field(
        None, description="Shell pattern for the class of its layer, as `Linear` or `*Norm*`; null = any."
    )
    ndim: Annotated[int, Field(ge=0)] | None = Field(None, description="Number of dimensions; null = any.")
    min_ndim: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Minimum number of dimensions; null = any."
    )

    @model_validator(mode="before")
    @classmethod
    def _expand_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_conditions(self) -> Self:
        if all(condition is None for condition in (self.name, self.kind, self.ndim, self.min_ndim)):
            raise ValueError("a match needs name, kind, ndim or min_ndim")
        return self


class Target(Section):
    """The initialization of weights and biases; null keeps the default of torch."""

    weight: Component | None = Field(
        None, description="Initialization of weights, from torch.nn.init; null = the default of torch."
    )
    bias: Component | None = Field(
        None, description="Initialization of biases, from torch.nn.init; null = the default of torch."
    )


class LayerInit(Target):
    """The initialization of the parameters that match."""

    match: Match = Field(
        description="Selects the parameters by name, class of the layer or number of dimensions."
    )


class InitConfig(Target):
    """The initial weights of all layers, with exceptions for parameters that match."""

    layers: list[LayerInit] = Field(
        default_factory=list, description="Exceptions for some parameters; the first match applies."
    )


class GroupConfig(WithOptions):
    """A parameter group with its own options (lr, weight_decay ...)."""

    match: Match = Field(
        description="Selects the parameters of the group; the first group that matches applies."
    )
    label: str | None = Field(None, description="Name of the group in logs; null = its pattern.")


class InnerOptimizerConfig(Component):
    """The optimizer that a wrapper (Lookahead, SAM) calls."""

    base: InnerOptimizerConfig | None = Field(
        None, description="The inner optimizer, if this one is a wrapper; null = it is not."
    )


StepMode = Literal["plain", "closure", "gradients_and_closure", "create_graph", "loss_closure"]
"""What an optimizer's `step` needs: gradients, a function that computes them, both, gradients with their
graph, or a function that computes the loss with its graph."""


class OptimizerConfig(Component):
    """An optimizer, the parameters that it updates and its parameter groups."""

    label: str | None = Field(
        None, description="Name in logs and overrides; null = the name of the optimizer."
    )
    match: Match | None = Field(
        None, description="Selects its parameters; null = all parameters that no other optimizer selects."
    )
    groups: list[GroupConfig] = Field(
        default_factory=list, description="Parameter groups; the remaining parameters form the last group."
    )
    base: InnerOptimizerConfig | None = Field(
        None, description="The inner optimizer, for a wrapper such as Lookahead or SAM; null = it is none."
    )
    step: Annotated[Literal["auto", StepMode], MayDiffer(unset=True)] = Field(
        "auto",
        description="How to call it: `plain` = gradients, then step(); `closure` = step(closure), which "
        "computes them; `gradients_and_closure` = both; `create_graph` = gradients that it can "
        "differentiate, then step(); `loss_closure` = step(closure), which computes a loss that it can "
        "differentiate; `auto` = the first of these that works.",
    )


class SchedulerConfig(Component):
    """A learning-rate schedule."""

    interval: Literal["epoch", "step"] = Field(
        "epoch",
        description="Unit of the counts of the schedule (T_max, step_size ...), of `warmup` and of `until`.",
    )
    warmup: Annotated[int, Field(ge=0)] = Field(
        0, description="Length of the linear warm-up before the schedule, in units of `interval`; 0 = none."
    )
    monitor: str | None = Field(
        None,
        description="Metric for ReduceLROnPlateau; null = val_loss, or train_loss without validation.",
    )
    until: Count | None = Field(
        None, description="In a list of schedules: when the next one starts, in units of `interval`."
    )


class EarlyStopping(Section):
    """Stop training when a metric has not improved for `patience` evaluations."""

    metric: str = Field("val_loss", description="Metric to monitor: a column of epochs.csv.")
    patience: Count = Field(5, description="Number of evaluations without improvement after which to stop.")
    min_delta: Annotated[float, Field(ge=0)] = Field(
        0.0, description="Minimum change that counts as an improvement."
    )
    mode: Literal["min", "max"] | None = Field(
        None, description="Whether a lower or a higher value is better; null = that of the metric."
    )


class MetricConfig(Component):
    """A metric."""

    mode: Literal["min", "max"] | None = Field(
        None,
        description="For your own function: whether a lower or a higher value is better; null = the metric "
        "states it.",
    )


class Every(Section):
    """An interval in epochs or in steps."""

    epochs: Amount | None = Field(None, description="Interval in epochs; fractions are allowed.")
    steps: Count | None = Field(None, description="Interval in steps.")

    @model_validator(mode="before")
    @classmethod
    def _expand_epochs(cls, value: Any) -> Any:
        return {"epochs": value} if isinstance(value, int | float) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _check_unit(self) -> Self:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give either epochs or steps")
        return self


class CheckpointEvery(Every):
    """An interval of checkpoints in epochs, in steps or in seconds of training."""

    seconds: Amount | None = Field(None, description="Interval in seconds of training.")

    @model_validator(mode="after")
    def _check_unit(self) -> Self:
        if sum(value is not None for value in (self.epochs, self.steps, self.seconds)) != 1:
            raise ValueError("give one of epochs, steps and seconds")
        return self


class TrainConfig(Section):
    """The training loop: its length, device, precision, evaluations and checkpoints."""

    epochs: Annotated[Annotated[float, Field(gt=0, le=1e12)] | None, LENGTH] = Field(
        None, description="Length in epochs; fractions are allowed; null = no limit in epochs."
    )
    steps: Annotated[Count | None, LENGTH] = Field(
        None, description="Length in optimizer steps; null = no limit in steps."
    )
    seconds: Annotated[Amount | None, LENGTH] = Field(
        None, description="Maximum training time in seconds; null = no limit."
    )
    device: Annotated[str, EXECUTION] = Field(
        "auto", description="`auto`, `cpu`, `cuda` or `cuda:N`; `auto` = a GPU if there is one, else the CPU."
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Autocast type of the forward pass; float16 also enables loss scaling."
    )
    engine: Annotated[Literal["auto", "eager", "compiled"], ENGINE] = Field(
        "eager",
        description="How a step runs: `eager`, or `compiled` (compiling takes seconds, or 1 to 2 minutes "
        "for a deep network; the result is kept for all runs of the same shape); `auto` = what takes less "
        "time in all, as far as known; a sweep decides this once for all its runs.",
    )
    threads: Annotated[Count | Literal["auto"], EXECUTION] = Field(
        "auto",
        description="Number of CPU threads of torch. `auto` measures a few forward and backward passes with "
        "one thread and with all usable cores (at most OMP_NUM_THREADS) and uses all only if that is at "
        "least 10 % faster; in a sweep, `auto` = 1. The last digits of results depend on this number.",
    )
    deterministic: bool = Field(
        False, description="Use deterministic kernels only (torch.use_deterministic_algorithms)."
    )
    accumulate: Count = Field(
        1, description="Number of batches whose gradients are averaged for one optimizer step."
    )
    clip_grad_norm: Amount | None = Field(
        None, description="Maximum norm of all gradients together; null = no clipping."
    )
    clip_grad_value: Annotated[float, Field(gt=0, le=3.4e38)] | None = Field(  # close to the float32 maximum
        None, description="Maximum absolute value of a gradient element; null = no clipping."
    )
    zero_grad: Literal["every_step", "never"] = Field(
        "every_step", description="When to reset the gradients; `never` accumulates them, for demonstration."
    )
    eval_every: Every = Field(
        Every(epochs=1), description="Interval between evaluations: a number of epochs, or {steps: N}."
    )
    metrics: Annotated[list[MetricConfig], RECORDS] = Field(
        default_factory=list,
        description="Metrics to measure in addition to those of the task (accuracy, if the targets are "
        "classes); null = none.",
    )
    eval_train: Annotated[bool, MayDiffer(group=True)] = Field(
        False, description="Also evaluate the training split in eval mode (train_eval_loss ...)."
    )
    early_stopping: EarlyStopping | None = Field(
        None, description="Stop when a metric no longer improves; null = no early stopping."
    )
    select: str | None = Field(
        None,
        description="Metric that selects the best checkpoint: a column of epochs.csv; null = val_accuracy if "
        "the targets are classes, else val_loss.",
    )
    checkpoint_every: Annotated[CheckpointEvery | None, SAVING] = Field(
        None,
        description="Interval between checkpoints (last.pt): a number of epochs, {steps: N} or {seconds: S}; "
        "null = at every evaluation, but at most one per second. The end of the run always saves one.",
    )
    test: Annotated[Literal["end", "never"], MayDiffer(group=True, resume=True)] = Field(
        "end", description="When to evaluate the test split: once at the `end`, or `never`."
    )
    check_finite: Annotated[bool, MayDiffer(resume=True)] = Field(
        False,
        description="Check the loss, batch, gradients and weights for NaN and infinity after every step; "
        "stop the run at the first one and report its parameter.",
    )
    max_loss: Amount | None = Field(
        None, description="Loss above which a run counts as diverged; null = only NaN and infinity do."
    )

    @field_validator("metrics", mode="before")
    @classmethod
    def _null_as_empty(cls, value: Any) -> Any:
        return [] if value is None else value

    @model_validator(mode="after")
    def _check_length(self) -> Self:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("epochs and steps are both set; set one of them, and the other to null")
        if self.epochs is None and self.steps is None and self.seconds is None:
            raise ValueError("the run has no length; set epochs, steps or seconds")
        return self


class LogConfig(Section):
    """What a run logs in addition to the losses."""

    every: Annotated[Count, RECORDS] = Field(30, description="Number of steps between two rows of steps.csv.")
    gradients: Annotated[bool, RECORDS] = Field(
        False, description="Log gradient norms in steps.csv: grad_norm (total) and one per parameter."
    )
    groups: Annotated[bool, RECORDS] = Field(
        False,
        description="Log the numbers in parameter groups that the optimizer or a schedule changes in "
        "steps.csv, as group.d; `lr` is always logged.",
    )
    histograms: Annotated[bool, RECORDS] = Field(
        False, description="Log histograms of the weights, before training and at every evaluation."
    )
    plots: Annotated[list[Literal["png", "svg", "pdf"]], PLACE] = Field(
        ["png"], description="File formats of the figures; an empty list = no figures."
    )
    export: Annotated[list[Component], PLACE] = Field(
        default_factory=list,
        description="Trackers that receive the run when it ends, as tensorboard or {name: mlflow, uri: ...}; "
        "an empty list = none.",
    )


class Config(Section):
    """The complete config of an experiment."""

    format: Literal[1] = Field(FORMAT, description="Version of the config format.")
    name: Annotated[FolderName, MayDiffer(group=True)] = Field(
        "experiment", description="Name of the experiment; its runs are saved in runs/<name>/."
    )
    seed: Annotated[SeedConfig, MayDiffer(group=True)] = Field(
        SeedConfig(), description="One seed for all random streams, or one per stream."
    )
    data: DataConfig = Field(
        description="The data set, its validation split, its batches and its preprocessing."
    )
    task: TaskName | None = Field(
        None,
        description="What the model learns, as `reconstruction` of its inputs; null = the task of the "
        "data set.",
    )
    model: ModelConfig = Field(description="The network.")
    init: InitConfig | None = Field(None, description="Initial weights; null = the default of torch.")
    loss: LossConfig = Field(
        LossConfig(name="cross_entropy"), description="The loss; the default is that of the task."
    )
    optimizer: list[OptimizerConfig] = Field(
        min_length=1, description="An optimizer, or a list of optimizers for different parameters."
    )
    scheduler: list[SchedulerConfig] = Field(
        default_factory=list,
        description="A learning-rate schedule, or a list of consecutive schedules; null = constant lr.",
    )
    train: TrainConfig = Field(
        description="The training loop: its length, device, precision, evaluations and checkpoints."
    )
    log: LogConfig = Field(
        default_factory=LogConfig, description="What a run logs in addition to the losses."
    )

    @model_validator(mode="before")
    @classmethod
    def _wrap_single(cls, value: Any) -> Any:
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
    InnerOptimizerConfig: _IMPLEMENTATION,
    GroupConfig: _IMPLEMENTATION,
}
"""`MayDiffer` marks for options of components: their signatures cannot carry marks."""
