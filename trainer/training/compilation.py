"""The compilation of a run's steps: compiled once, checked at evaluations, replaced by eager steps."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from trainer.data.batches import Batch
from trainer.training.engines.eager import EagerEngine
from trainer.training.state import TrainingState


@dataclass(slots=True)
class Compilation:
    """Compiles the steps of a run and checks them. For an eager engine, its methods do nothing.

    Args:
        engine: the engine of the run.
        state: the state of the run; compiling and checking do not change it.
        requested: whether the steps are to run compiled.
        seconds: time that compiling took; None = not attempted.
        last_batches: batches of the last step with full batches, for the checks.
        messages: messages that were not yet read; the reader clears the list.
    """

    engine: EagerEngine
    state: TrainingState
    requested: bool
    seconds: float | None = None
    last_batches: Sequence[Batch] | None = None
    messages: list[str] = field(default_factory=list)
    _initial_state: dict[str, Any] | None = None  # of a resumed run
    _agreed_at: int = 0  # the step of the last successful check
    _checks: int = 0

    def compile(self, steps: Iterable[Sequence[Batch]], *, also_restore: Mapping[str, object]) -> str | None:
        """Compile the step, once, before the clock starts.

        Args:
            steps: the batches of each step of the run, from step 0.
            also_restore: see `CompiledEngine.compile`.

        Returns:
            The result, for the log; None if there was nothing to do.
        """
        if not self.requested or self.seconds is not None:
            return None
        if self.state.eager_from is not None:
            self.seconds = 0.0
            return f"the steps run eager, as they did from step {self.state.eager_from} on"
        began = time.perf_counter()
        with self._from_initial_state():
            reason = self.engine.compile(steps, also_restore=also_restore)
        self.seconds = round(time.perf_counter() - began, 3)
        if reason is not None:
            return f"the steps run eager: {reason}"
        self._agreed_at = self.state.progress.step
        made = f"compiled the step in {self.seconds:.1f} s; compared"
        if self.engine.was_kept:
            made = f"loaded the step, compiled by an earlier run, in {self.seconds:.2f} s; that run compared"
        return f"{made} {self.engine.checked} (rounding differs, so a long run can give different results)"

    def keep_initial_state(self) -> None:
        """Keep the state of step 0; call it before the state of a checkpoint is loaded."""
        if self.requested and self.seconds is None and self._initial_state is None:
            self._initial_state = copy.deepcopy(self.state.state_dict())

    @contextmanager
    def _from_initial_state(self) -> Iterator[None]:
        """Return to step 0 for the block, so that the check gives the same result as when the run started."""
        if self._initial_state is None:
            yield
            return
        now = copy.deepcopy(self.state.state_dict())
        try:
            self.state.load_state_dict(self._initial_state)
            yield
        finally:
            self.state.load_state_dict(now)
        self._initial_state = None

    def check(self, batches: Sequence[Batch] | None = None) -> None:
        """Check that compiled steps still agree with eager steps; if not, continue with eager steps.

        Updates since the last check are kept, and the message says so: undoing them would need a checkpoint,
        and the difference may be only the rounding of an unusual step.

        Args:
            batches: the batches of a step; None = check only whether Python state has changed.
        """
        if not self.engine.ready:
            return
        compared = self.engine.compared_steps
        reason, step = self.engine.check(batches), self.state.progress.step
        if reason is not None:
            self.state.eager_from = step
            self.messages.append(
                f"the steps run eager from step {step} on: {reason}. Compiled steps last agreed at "
                f"step {self._agreed_at}; to verify the later steps, train again with train.engine=eager"
            )
        elif self.engine.compared_steps > compared:
            self._agreed_at = step
            self._checks += 1

    def engine_used(self) -> str:
        """Return the engine of the steps: `eager`, `compiled`, or `compiled until step N`."""
        if self.state.eager_from is not None:
            return f"compiled until step {self.state.eager_from}"
        return "compiled" if self.engine.ready else "eager"

    def describe_checks(self) -> str | None:
        """Return a summary of the checks during the run; None if there were none."""
        if not self._checks or not self.engine.ready:
            return None
        evaluations = f"{self._checks} evaluation{'' if self._checks == 1 else 's'}"
        return f"checked the compiled steps at {evaluations}; in all compared {self.engine.checked}"
