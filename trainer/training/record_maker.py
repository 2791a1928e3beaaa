"""Makes the records of a run from its state and from the output of a step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from trainer.optimizers.external import group_numbers, rate_holder
from trainer.optimizers.groups import Group
from trainer.records import Record, StepRecord
from trainer.schedules import learning_rate
from trainer.training.engines.eager import StepOutput
from trainer.training.state import TrainingState

Kind = TypeVar("Kind", bound=Record)


@dataclass(frozen=True, slots=True)
class RecordMaker:
    """Makes the records of a run.

    Args:
        state: the state of the run.
        batches_per_epoch: training batches of an epoch.
        groups: parameter groups by optimizer label.
        penalty: whether the loss has a penalty.
        gradients: whether the norms of the gradients are logged.
        changing: numbers in the parameter groups to log, by optimizer label.
    """

    state: TrainingState
    batches_per_epoch: int
    groups: Mapping[str, Sequence[Group]]
    penalty: bool
    gradients: bool
    changing: Mapping[str, Sequence[str]]

    def make(self, kind: type[Kind], values: Mapping[str, float | None] | None = None) -> Kind:
        """Return a record of the given kind at the current step."""
        now = self.state.progress
        epoch = now.epoch + now.batch / self.batches_per_epoch
        return kind(now.step, epoch, now.samples, now.grad_evals, self.state.clock.read(), values or {})

    def make_step(self, output: StepOutput) -> StepRecord:
        """Return the record of the last update; call before the schedules. Reads the loss from the device."""
        values: dict[str, float | None] = {"loss": output.loss.item()}
        values |= {name: learning_rate(group) for name, group in self._group_columns("lr")}
        for option in self._logged_options():
            values |= {name: group_numbers(group).get(option) for name, group in self._group_columns(option)}
        if output.penalty is not None:
            values["penalty"] = output.penalty.item()
        if output.grad_norms is not None:
            values["grad_norm"] = output.grad_norms.norm().item()
            values |= dict(zip(self._norm_columns(), output.grad_norms.tolist(), strict=True))
        return self.make(StepRecord, values)

    def step_columns(self) -> list[str]:
        """Return the column names of a step record."""
        columns = ["loss", *(name for name, _ in self._group_columns("lr"))]
        columns += [name for option in self._logged_options() for name, _ in self._group_columns(option)]
        if self.penalty:
            columns.append("penalty")
        if self.gradients:
            columns += ["grad_norm", *self._norm_columns()]
        return columns

    def _logged_options(self) -> list[str]:
        return list(dict.fromkeys(option for options in self.changing.values() for option in options))

    def _group_columns(self, option: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield the column of an option of every parameter group, with the group.

        The columns are `lr` or `lr.<label>`, and `group.<option>` or `group.<option>.<label>` of the others.
        The group is {} if the optimizer changed its groups.
        """
        several = len(self.state.optimizers) > 1
        for label, optimizer in self.state.optimizers.items():
            if option != "lr" and option not in self.changing.get(label, ()):
                continue
            described, live = self.groups[label], rate_holder(optimizer).param_groups
            matched = live if len(live) == len(described) else [{}] * len(described)
            for group, values in zip(described, matched, strict=True):
                parts = [label] * several + [group.label] * bool(group.label)
                yield ".".join([option if option == "lr" else f"group.{option}", *parts]), values

    def _norm_columns(self) -> list[str]:
        parameters = self.state.model.named_parameters()
        return [f"grad_norm.{name}" for name, parameter in parameters if parameter.requires_grad]
