"""Select the engine of a run. The compiled engine is imported only when it is used.

The compiled engine uses private names of torch. If the installed torch lacks one of them, the steps run eager
and the log says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from trainer.training.engines.eager import EagerEngine, MicroBatch, StepTimes

COMPILE_SECONDS = 15.0
"""Time to compile a small network, with Inductor's imports; 4 to 25 s on the machines that were measured."""

_LOAD_SECONDS = 0.3  # for a program that an earlier run compiled
_SHARE = 0.5  # of an eager step's time: a compiled step of a small network takes 0.2 to 0.9


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """What `train.engine: auto` has become.

    Attributes:
        engine: `eager` or `compiled`.
        note: a line for the log, which gives the reason.
    """

    engine: str
    note: str


def choose_engine(planned: Sequence[tuple[StepTimes | str, float]]) -> EngineChoice:
    """Return the engine that takes less time for all planned steps together, compiling included.

    Args:
        planned: for each kind of step its times, or why it cannot be compiled, and the number of steps.
    """
    eager_seconds = saved = cost = 0.0
    for times, steps in planned:
        if isinstance(times, str):
            return EngineChoice("eager", f"engine: eager ({times})")
        compiled = _SHARE * times.eager if times.compiled is None else times.compiled
        eager_seconds += steps * times.eager
        saved += steps * (times.eager - compiled)
        cost += COMPILE_SECONDS if times.compiled is None else _LOAD_SECONDS
    engine = "compiled" if saved > cost else "eager"
    measured = " and ".join(_describe(times) for times, _ in planned[:1] if isinstance(times, StepTimes))
    return EngineChoice(
        engine,
        f"engine: {engine} ({measured}; the planned steps take {_duration(eager_seconds)} eager, compiled "
        f"they save about {_duration(saved)} and cost {_duration(cost)} of preparation)",
    )


def _describe(times: StepTimes) -> str:
    text = f"{1000 * times.eager:.3g} ms per eager step"
    return text if times.compiled is None else f"{text}, {1000 * times.compiled:.3g} ms compiled"


def _duration(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:,.0f} s"


def engine_class(name: str) -> type[EagerEngine]:
    """Return the class of the engine `eager` or `compiled`."""
    if name == "eager":
        return EagerEngine
    try:
        from trainer.training.engines.inductor.compiled import CompiledEngine
    except (ImportError, AttributeError) as error:
        return _eager_because(f"this release of torch lacks what compiling needs: {error}")
    return CompiledEngine


def _eager_because(reason: str) -> type[EagerEngine]:
    class Uncompiled(EagerEngine):
        """An eager engine that replaces a compiled engine that cannot be imported."""

        def compile(
            self, steps: Iterable[Sequence[MicroBatch]], *, also_restore: Mapping[str, object] | None = None
        ) -> str | None:
            """Return the reason why the steps run eager."""
            return reason

        def step_times(
            self, steps: Iterable[Sequence[MicroBatch]], *, also_restore: Mapping[str, object] | None = None
        ) -> StepTimes | str:
            """Return the reason why the steps run eager."""
            return reason

    return Uncompiled
