"""Learning-rate schedules: torch's, two more, linear warm-up, and sequences of schedules.

A schedule changes the learning rates (some also the momentum) of an optimizer's groups. The training loop
calls `Schedule.step` after each interval and `Schedule.observe` after each evaluation.
"""

from trainer.schedules.build import DERIVED, LENGTHS, ScheduleSpec, build_schedule, derived_options
from trainer.schedules.rules import OWN_SCHEDULERS, SCHEDULES, InverseTime, Piecewise, torch_schedulers
from trainer.schedules.schedule import Schedule, cycled_options, learning_rate

__all__ = [
    "DERIVED",
    "LENGTHS",
    "OWN_SCHEDULERS",
    "SCHEDULES",
    "InverseTime",
    "Piecewise",
    "Schedule",
    "ScheduleSpec",
    "build_schedule",
    "cycled_options",
    "derived_options",
    "learning_rate",
    "torch_schedulers",
]
