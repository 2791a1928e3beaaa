"""The training loop: a generator of records, in the order every textbook gives.

It writes nothing and decides nothing: whoever iterates over it logs, saves, shows and stops. While it is
suspended at a `yield` its clock stands still, so that none of that counts as training time.
"""

from __future__ import annotations

from collections.abc import Generator

from trainer.records import CheckpointDue, Record
from trainer.training.experiment import Experiment


def train(run: Experiment) -> Generator[Record]:
    """Train until the run's length is reached, and yield what is worth writing down.

    Yields:
        A `StepRecord` every `log.every` updates (and for the first), an `EvalRecord` before the first update,
        at every evaluation and at the end, and a `CheckpointDue` where the state may be saved: a run that
        goes on from there yields the same records as one that was never stopped. Where the end is off the
        rhythm of evaluations, the state is saved before the last one, for a longer run has none there.
    """
    if run.progress.step == 0:
        yield run.evaluate()
        yield run.make_record(CheckpointDue)

    run.compile()  # does nothing for an eager engine
    run.clock.start()
    while not run.finished():
        for batches in run.remaining_batches():
            output = run.engine.step(batches, measure=run.measures_next())  # forward, backward, update
            due = run.advance(batches, output)
            record = run.log(output) if due.log else None
            run.step_schedules()

            if record:
                with run.clock.paused():
                    yield record
            if due.evaluation:
                with run.clock.paused():
                    yield run.evaluate()
            if due.checkpoint:
                with run.clock.paused():
                    yield run.make_record(CheckpointDue)
            if run.finished():
                break
    run.clock.stop()

    if run.last_evaluation_due():
        yield run.make_record(CheckpointDue)
        yield run.evaluate()
