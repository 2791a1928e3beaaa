"""Keys of the config that were renamed: saved configs may contain their former names.

A config that states its `format` was saved by optlab. In all other configs a former name is an unknown key,
and the error suggests the current name.
"""

from __future__ import annotations

from typing import Any

CURRENT_NAMES = {("train", "detect_anomaly"): ("train", "check_finite")}
"""Paths of renamed keys: former -> current, both in the same section."""


def rename_keys(config: Any, positions: dict[Any, Any] | None = None) -> None:
    """Give the keys of a saved config their current names, in place. Does nothing for other configs.

    Args:
        config: the plain values.
        positions: the location of each path; it is updated as well.
    """
    if not isinstance(config, dict) or "format" not in config:
        return
    for (head, former), (_, current) in CURRENT_NAMES.items():
        section = config.get(head)
        if isinstance(section, dict) and former in section and current not in section:
            section[current] = section.pop(former)
            if positions and (head, former) in positions:
                positions[head, current] = positions.pop((head, former))
