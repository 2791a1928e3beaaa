"""Select the engine class of a run. The compiled engine is imported only when it is used.

The compiled engine uses private names of torch. If the installed torch lacks one of them, the steps run eager
and the log says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from trainer.training.engines.eager import EagerEngine, MicroBatch

PAYS_AFTER_STEPS = 50_000
"""Number of planned steps from which compiling (a few seconds) pays off for small networks on a CPU."""


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

    return Uncompiled
