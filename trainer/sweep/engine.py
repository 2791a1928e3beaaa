"""The engine of a sweep: `auto` decided once for all runs, and steps compiled once before the workers start.

Workers load the programs that this process has kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from trainer import catalog, process_state
from trainer.config.load import Loaded
from trainer.errors import OptlabError
from trainer.sweep.models import Sweep, Variant, load_variant
from trainer.sweep.plan import SharedData, budget, default_overrides, former_variants
from trainer.training.building import build_experiment, planned_steps
from trainer.training.engines.choice import choose_engine
from trainer.training.experiment import Experiment


def resolve_engine(
    sweep: Sweep, root: Path, shared_data: SharedData, workers: int
) -> tuple[Sweep, list[str]]:
    """Return the sweep with one engine for all variants with `train.engine: auto`, and notes.

    Variants that cannot be built are left as they are; the check of the variants reports their errors.

    Args:
        sweep: the sweep.
        root: its directory; if it has runs of these variants, their engine is kept.
        shared_data: the shared data.
        workers: number of runs that train at the same time.
    """
    names = [name for name, variant in sweep.variants.items() if _engine(sweep, variant) == "auto"]
    if not names:
        return sweep, []
    engine, note = _former_engine(root, names), "engine: as in the sweep's directory"
    if engine is None:
        planned = []
        try:
            for name in names:
                variant = sweep.variants[name]
                with process_state.preserved():
                    times, steps = planned_steps(
                        _build(sweep, _with_engine(variant, "compiled"), shared_data)
                    )
                num_runs = budget(sweep, variant) * len(sweep.seeds) + len(sweep.final_seeds)
                planned.append((times, steps * num_runs / min(workers, num_runs)))
        except OptlabError:
            return sweep, []
        choice = choose_engine(planned)
        engine, note = choice.engine, choice.note
    variants = {
        name: _with_engine(one, engine) if name in names else one for name, one in sweep.variants.items()
    }
    return replace(sweep, variants=variants), [f"{note}; for all runs of {', '.join(names)}"]


def compile_steps(sweep: Sweep, shared_data: SharedData, only: Sequence[str]) -> list[str]:
    """Compile the step of each variant that runs compiled, with the first value of every axis; return notes.

    The step of another value is compiled by the first worker that needs it; the others wait for it.
    """
    notes = []
    for name, variant in sweep.variants.items():
        if (only and name not in only) or _engine(sweep, variant) != "compiled":
            continue
        with process_state.preserved(), suppress(OptlabError):  # the run reports it
            if note := _build(sweep, variant, shared_data).compile():
                notes.append(f"{name}: {note}")
    return notes


@process_state.preserved()
def _engine(sweep: Sweep, variant: Variant) -> str | None:
    """Return `train.engine` of a variant; None if it is an axis, or if the config is not valid."""
    if any(axis.key == "train.engine" for axis in variant.axes):
        return None
    try:
        return _load(sweep, variant).config.train.engine
    except OptlabError:
        return None


def _load(sweep: Sweep, variant: Variant) -> Loaded:
    first = {axis.key: axis.probes()[0] for axis in variant.axes}
    overrides = default_overrides(sweep, variant, "search")
    return load_variant(variant, first, sweep.seeds[0], catalog.COMPONENTS, overrides)


def _build(sweep: Sweep, variant: Variant, shared_data: SharedData) -> Experiment:
    loaded = _load(sweep, variant)
    return build_experiment(loaded, loaded_data=shared_data.loaded_data(loaded))


def _with_engine(variant: Variant, engine: str) -> Variant:
    others = [text for text in variant.overrides if not text.startswith("train.engine=")]
    return replace(variant, overrides=(*others, f"train.engine={engine}"))


def _former_engine(root: Path, names: Sequence[str]) -> str | None:
    """Return the engine of the variants in an existing sweep.yaml; None if there is none for all of them."""
    former = former_variants(root)
    trains = [former[name].get("train") for name in names if name in former]
    engines = [train.get("engine") if isinstance(train, dict) else None for train in trains]
    for engine in ("eager", "compiled"):
        if engines and all(one == engine for one in engines):
            return engine
    return None
