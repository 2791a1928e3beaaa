"""Build an experiment from a config, with what identifies and describes it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch.amp import GradScaler

from trainer import catalog
from trainer.config.identity import Code, code_of
from trainer.config.load import Loaded
from trainer.config.models import Config, DataConfig
from trainer.config.paths import split_import_path
from trainer.data.batches import Batch, Batches, eval_batches
from trainer.data.dataset import Dataset, Splits, data_root
from trainer.data.preprocess import Prepare, dataset_mean_std, make_prepare
from trainer.data.user_parts import Progress
from trainer.device import PRECISIONS, Clock, autocast, check_threads, resolve_device, usable_threads
from trainer.errors import OptlabError
from trainer.models.layers import feed_channels_last
from trainer.optimizers.external import rate_holder
from trainer.optimizers.groups import Group
from trainer.optimizers.modes import train_mode
from trainer.schedules import Schedule, cycled_options
from trainer.seeding import preserved, seed_dropout, seed_globals
from trainer.tasks import NEXT_TOKEN, RECONSTRUCTION, Task, task_of
from trainer.training.builders import (
    OptimizerContext,
    Optimizers,
    build_augmentation,
    build_loss,
    build_metrics,
    build_model,
    build_optimizers,
    build_penalty,
    build_schedules,
)
from trainer.training.compilation import Compilation
from trainer.training.engines.choice import choose_engine, engine_class
from trainer.training.engines.eager import EagerEngine, StepTimes
from trainer.training.evaluation import RunningMean
from trainer.training.experiment import Experiment
from trainer.training.forward import ForwardPass
from trainer.training.loaded_data import LoadedData, load_data
from trainer.training.locate import located
from trainer.training.preflight import (
    check_inputs,
    check_last_batch,
    check_metrics,
    check_targets,
    try_forward,
    try_loss,
)
from trainer.training.record_maker import RecordMaker
from trainer.training.state import TrainingState
from trainer.training.threads import choose_threads
from trainer.training.timetable import Interval, Plan, run_length
from trainer.training.values import require_same
from trainer.user_code import context_arguments, user_code, while_building


@dataclass(frozen=True, slots=True)
class RunSetup:
    """An experiment, and what identifies and describes it in its run directory.

    Args:
        config: the resolved config: no value is `auto`, and defaults are filled in.
        experiment: the experiment.
        code: the users' files and the packages that the config's components come from.
        data_digest: SHA-256 of the content of the data set.
        task: the task.
        num_classes: number of outputs of the model.
        vocabulary: the text of every token; None without tokens.
        groups: parameter groups by optimizer label.
        notes: lines for the log.
    """

    config: Config
    experiment: Experiment
    code: Code
    data_digest: str
    task: Task
    num_classes: int
    vocabulary: Sequence[str] | None
    groups: Mapping[str, Sequence[Group]]
    notes: Sequence[str]

    def select_metric(self) -> str:
        """Return the metric that selects the best checkpoint."""
        return self.config.train.select or f"val_{self.task.select}"


def build_experiment(
    loaded: Loaded, *, download: bool = True, loaded_data: LoadedData | None = None
) -> Experiment:
    """Build the experiment of a config; see `set_up_run`."""
    return set_up_run(loaded, download=download, loaded_data=loaded_data).experiment


def set_up_run(
    loaded: Loaded,
    *,
    download: bool = True,
    loaded_data: LoadedData | None = None,
    measure_threads: bool = True,
    progress: Progress | None = None,
) -> RunSetup:
    """Build the experiment of a config, and resolve the config.

    Seeds the global generators (torch's, `random`, `numpy.random`) and sets torch's thread count. Dropout and
    users' components draw from these generators during training; `train` sets them to the experiment's own
    states whenever it continues, so several experiments can train by turns in one process.

    Args:
        loaded: a validated config.
        download: whether a missing data set may be downloaded, if the config allows it.
        loaded_data: the config's data, already loaded; None = load it.
        measure_threads: whether to measure what `train.threads: auto` means; False = leave it `auto`.
        progress: called with (samples read, number of samples) while data are read sample by sample.

    Raises:
        ConfigError, DataError: the parts do not fit together; the error gives the place in the config.
    """
    try:
        return _set_up_run(
            loaded,
            download=download,
            loaded_data=loaded_data,
            measure_threads=measure_threads,
            progress=progress,
        )
    except (OptlabError, KeyboardInterrupt):
        raise
    except BaseException as error:
        failure = while_building(error, loaded.config.model_dump())
        if failure is None:
            raise
        with located(loaded):
            raise failure from error


def _set_up_run(
    loaded: Loaded,
    *,
    download: bool,
    loaded_data: LoadedData | None,
    measure_threads: bool,
    progress: Progress | None,
) -> RunSetup:
    config = loaded.config
    seed_globals("construction", config.seed.init)
    with located(loaded):
        device = _prepare_machine(config)
    if loaded_data is None:
        loaded_data = load_data(loaded, download=download, progress=progress)
    dataset, splits = loaded_data.dataset, loaded_data.splits
    with located(loaded):
        task = task_of(config.task, dataset.task)
    tokens = task == NEXT_TOKEN
    with located(loaded, "data"):
        check_inputs(task, config.data)
        prepare = make_prepare(
            input_shape=dataset.input_shape,
            **_mean_std(config.data, splits),
            resize=config.data.resize,
            pad=config.data.pad,
        )
        reconstruct = task == RECONSTRUCTION
        num_outputs = math.prod(prepare.output_shape) if reconstruct else dataset.num_classes
        batches = _batches(config, dataset, splits, prepare, device, reconstruct=reconstruct)
        batch = _first_batch(batches, device)  # also checks that a batch can be made
        some_inputs, trained = batch
        for number, augmentation in enumerate(config.data.augment):
            if split_import_path(augmentation.name):
                again = _first_batch(batches, device)
                key = f"augment.{number}.name"
                require_same(batch._asdict(), again._asdict(), augmentation.name, key=key)
        # Metrics are tried on targets as in training, which augmentations may change, and on unchanged ones.
        evaluate_on = _evaluation(config, splits, prepare, device, reconstruct=reconstruct)
        evaluated = next(evaluate_on("train")).targets[: len(trained)]
    model = build_model(loaded, prepare.output_shape, num_outputs, tokens=tokens)
    check_last_batch(loaded, model, batches, prepare.output_shape, num_outputs, tokens=tokens)
    model.to(device)
    if device.type == "cpu" and config.model.name in catalog.REGISTRIES["model"]:
        feed_channels_last(model, prepare.output_shape)
    precision = autocast(device, config.train.precision)
    threads, threads_note = config.train.threads, ""
    if threads == "auto" and measure_threads:
        threads = usable_threads()
        if device.type == "cpu":
            threads, threads_note = choose_threads(model, some_inputs, precision, config.model.output)
    torch.set_num_threads(1 if threads == "auto" else threads)
    seed_globals("construction", config.seed.init)  # earlier random draws depend on which data were cached
    with located(loaded, "loss"):
        loss = build_loss(config.loss)
        if isinstance(loss, torch.nn.Module):
            loss.to(device)
        forward = ForwardPass(loss, config.model.output, context_arguments(loss))
        with user_code(config.loss.name):
            returned = try_loss(forward, model, some_inputs[:2], trained[:2], num_outputs)
        check_targets(config.loss.name, returned, evaluated if reconstruct else splits.train.targets)
        model_penalty = build_penalty(config, model)
    for key, name in (("model", config.model.name), ("loss", config.loss.name)):
        if split_import_path(name):
            with located(loaded, key), user_code(name):
                try_forward(forward, model, precision, some_inputs[:2], trained[:2], key, name)
    with located(loaded, "train.metrics"):
        metrics = build_metrics(config.train.metrics, (trained, evaluated), num_outputs, task)
    steps_per_epoch = -(-batches.batches_per_epoch // config.train.accumulate)
    plan = _plan(config, steps_per_epoch)
    built = build_optimizers(
        loaded,
        model,
        OptimizerContext(
            input_shape=prepare.output_shape,
            device=device,
            forward=forward,
            autocast=precision,
            batches=[(some_inputs, trained)],
            numbers={
                "num_iterations": plan.steps,
                "total_steps": plan.steps,
                "num_training_steps": plan.steps,
                "num_data": len(splits.train),
                "batch_size": batches.batch_size,
            },
        ),
    )
    optimizers, groups = built.by_label, built.groups
    schedules = build_schedules(
        loaded, optimizers, plan, steps_per_epoch, metrics, has_val=splits.val is not None
    )
    scaler = GradScaler(device.type) if PRECISIONS[config.train.precision] is torch.float16 else None
    engine_name: str = config.train.engine
    make_engine = partial(
        engine_class("eager" if engine_name == "eager" else "compiled"),
        model,
        forward,
        list(optimizers.values()),
        autocast=precision,
        step_mode=built.step_mode,
        scaler=scaler,
        penalty=model_penalty,
        clip_grad_norm=config.train.clip_grad_norm,
        clip_grad_value=config.train.clip_grad_value,
        zero_grad=config.train.zero_grad == "every_step",
    )
    engine = make_engine()
    train_mode(optimizers.values())
    seed_dropout(config.seed.dropout)
    state = TrainingState(
        device=device,
        model=model,
        optimizers=optimizers,
        schedules=schedules,
        scaler=scaler,
        keeps_gradients=config.train.zero_grad == "never",
        mean=RunningMean(metrics),
        clock=Clock(device),
        derived={**built.derived, **_derived_lengths(schedules)},
    )
    experiment = Experiment(
        splits=splits,
        batches=batches,
        evaluate_on=evaluate_on,
        forward=forward,
        autocast=precision,
        metrics=metrics,
        engine=engine,
        compilation=Compilation(engine, state, requested=engine_name != "eager"),
        plan=plan,
        check_finite=config.train.check_finite,
        eval_train=config.train.eval_train,
        state=state,
        records=RecordMaker(
            state,
            batches.batches_per_epoch,
            groups,
            penalty=model_penalty is not None,
            gradients=config.log.gradients,
            changing=_logged_options(built) if config.log.groups else {},
        ),
    )
    check_metrics(loaded, experiment)
    engine_note = ""
    if engine_name == "auto":
        choice = choose_engine([planned_steps(experiment)])
        engine_name, engine_note = choice.engine, choice.note
        if engine_name == "eager":
            experiment.engine = EagerEngine(*make_engine.args, **make_engine.keywords)
        requested = engine_name == "compiled"
        experiment.compilation = Compilation(experiment.engine, state, requested=requested)
    state.suspend()
    return RunSetup(
        config=_resolved(config, device, built.resolved, engine_name, threads),
        experiment=experiment,
        code=code_of(config),
        data_digest=dataset.digest,
        task=task,
        num_classes=num_outputs,
        vocabulary=dataset.class_names if tokens else None,
        groups=groups,
        notes=[
            *(*loaded.notes, *dataset.notes, *_test_note(config)),
            *(note for note in (threads_note, engine_note) if note),
        ],
    )


def planned_steps(experiment: Experiment) -> tuple[StepTimes | str, float]:
    """Return the times of an experiment's steps, and how many it will take; see `choose_engine`."""
    times, plan = experiment.step_times(), experiment.plan
    steps = math.inf if plan.steps is None else plan.steps
    if plan.seconds is not None and isinstance(times, StepTimes):
        steps = min(steps, plan.seconds / times.eager)
    return times, steps


def _test_note(config: Config) -> list[str]:
    if config.data.val_from != "test":
        return []
    return ["data.val_from=test: the test split is used for validation, so its results are not unbiased"]


def _derived_lengths(schedules: Sequence[Schedule]) -> dict[str, int]:
    return {f"scheduler.{name}": value for one in schedules for name, value in one.derived.items()}


def _logged_options(built: Optimizers) -> dict[str, Sequence[str]]:
    """Return the numbers in parameter groups that the optimizers or their schedules change, by label."""
    return {
        label: [*built.changing.get(label, ()), *cycled_options(rate_holder(optimizer))]
        for label, optimizer in built.by_label.items()
    }


def _prepare_machine(config: Config) -> torch.device:
    """Return the device; set deterministic mode, and one thread until the model is built, for this process.

    The statistics of the data and the initial weights are always computed by one thread. With several, their
    last bits could differ between this run and a run of its saved config, which states the thread count.
    """
    if config.train.threads != "auto":
        check_threads(config.train.threads)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(config.train.deterministic)
    return resolve_device(config.train.device)


def _mean_std(data: DataConfig, splits: Splits) -> dict[str, list[float]]:
    if data.normalize is None:
        return {}
    if data.normalize == "dataset":
        mean, std = dataset_mean_std(splits.train)
        return {"mean": mean, "std": std}
    return {"mean": data.normalize.mean, "std": data.normalize.std}


def _batches(
    config: Config,
    dataset: Dataset,
    splits: Splits,
    prepare: Prepare,
    device: torch.device,
    *,
    reconstruct: bool,
) -> Batches:
    augment = [
        build_augmentation(component, dataset.num_classes, f"augment.{number}")
        for number, component in enumerate(config.data.augment)
    ]
    return Batches(
        splits.train,
        batch_size=config.data.batch_size,
        shuffle=config.data.shuffle,
        drop_last=config.data.drop_last,
        seed=config.seed.batches,
        augmentation_seed=config.seed.augmentation,
        prepare=prepare,
        augment=augment,
        device=device,
        repeat=config.data.repeat,
        reconstruct=reconstruct,
    )


def _first_batch(batches: Batches, device: torch.device) -> Batch:
    with preserved(device):
        return next(batches.epoch(0))


def _evaluation(
    config: Config, splits: Splits, prepare: Prepare, device: torch.device, *, reconstruct: bool
) -> Callable[[str], Iterator[Any]]:
    def batches_of(split: str) -> Iterator[Any]:
        return eval_batches(
            getattr(splits, split),
            batch_size=config.data.eval_batch_size,
            prepare=prepare,
            device=device,
            reconstruct=reconstruct,
        )

    return batches_of


def _plan(config: Config, steps_per_epoch: int) -> Plan:
    train = config.train
    return Plan(
        steps=run_length(epochs=train.epochs, steps=train.steps, steps_per_epoch=steps_per_epoch),
        seconds=train.seconds,
        accumulate=train.accumulate,
        log=Interval(config.log.every),
        evaluate=Interval.of(train.eval_every, steps_per_epoch),
        checkpoint=None
        if train.checkpoint_every is None or train.checkpoint_every.seconds is not None
        else Interval.of(train.checkpoint_every, steps_per_epoch),
        checkpoint_seconds=train.checkpoint_every.seconds if train.checkpoint_every else None,
    )


def _resolved(
    config: Config,
    device: torch.device,
    optimizers: Sequence[Mapping[str, Any]],
    engine: str,
    threads: int | Literal["auto"],
) -> Config:
    """Return the config with `auto` and null replaced by the values used on this machine."""
    fields = config.model_dump()
    fields["train"]["device"] = str(device)
    fields["train"]["engine"] = engine
    fields["train"]["threads"] = threads
    if "root" in fields["data"]:
        fields["data"]["root"] = str(data_root(fields["data"]["root"]).absolute())
    for optimizer, settings in zip(fields["optimizer"], optimizers, strict=True):
        optimizer.update(settings)
    return Config.model_validate(fields)
