"""Learning-rate schedules: torch's, two of ours, warm-up and lists of them.

A schedule changes the learning rates (some also the momentum) in an optimizer's groups. The loop calls
`Schedule.step` when an interval is over and `Schedule.observe` after an evaluation; when that is, and what
is logged, is not this room's business.
"""

from trainer.schedules.build import DERIVED, ScheduleSpec, build_schedule, derived_options
from trainer.schedules.rules import OWN_SCHEDULERS, SCHEDULES, InverseTime, Piecewise, torch_schedulers
from trainer.schedules.schedule import Schedule, learning_rate

__all__ = [
    "DERIVED",
    "OWN_SCHEDULERS",
    "SCHEDULES",
    "InverseTime",
    "Piecewise",
    "Schedule",
    "ScheduleSpec",
    "build_schedule",
    "derived_options",
    "learning_rate",
    "torch_schedulers",
]
