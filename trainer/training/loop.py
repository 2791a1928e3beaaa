"""The training loop: a generator that trains a model and yields records.

The loop writes no files. The caller iterates over the records and logs, saves, displays and stops. The clock
is paused at each `yield`, so the caller's work does not count as training time.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing

from trainer.records import CheckpointDue, Record
from trainer.training.experiment import Experiment


def train(run: Experiment) -> Generator[Record]:
    """Train until the run reaches its length or is asked to stop.

    Yields:
        StepRecord: after the first update and every `log.every` updates.
        EvalRecord: before the first update, at every evaluation and at the end.
        CheckpointDue: when the state may be saved. A run resumed from this state yields the same records as
            an uninterrupted run. If the last evaluation is not a scheduled one, the state is saved before
            it, because an extended run does not evaluate at that step.

    While it is suspended at a `yield`, the caller may draw random numbers and train other experiments. The
    states of the global generators are kept and restored for that, which takes about 0.1 ms per record.
    """
    with closing(train_alone(run)) as records:
        while True:
            run.state.resume()
            record = next(records, None)
            run.state.suspend()
            if record is None:
                return
            yield record


def train_alone(run: Experiment) -> Generator[Record]:
    """Train as `train` does, if nothing else in this process uses the global random generators meanwhile."""
    run.state.resume()
    clock = run.state.clock
    if run.progress.step == 0:
        yield run.evaluate()
        yield run.records.make(CheckpointDue)

    run.compile()  # does nothing for an eager engine
    clock.start()
    while not run.finished():
        for batches in run.remaining_batches():
            output = run.engine.step(batches, measure=run.measures_next())  # forward, backward, update
            due = run.advance(batches, output)
            record = run.records.make_step(output) if due.log else None
            run.step_schedules()

            if record:
                with clock.paused():
                    yield record
            if due.evaluation:
                with clock.paused():
                    yield run.evaluate()
            if due.checkpoint:
                with clock.paused():
                    yield run.records.make(CheckpointDue)
            if run.finished():
                break
    clock.stop()

    if run.last_evaluation_due():
        yield run.records.make(CheckpointDue)
        yield run.evaluate()
