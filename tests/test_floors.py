"""Imports only go down: the floors of the architecture, held against what the modules import."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1] / "trainer"

# The floor of every room; a room is a module or a package right below `trainer`.
FLOORS = {
    0: {"errors", "seeding", "device", "interrupts", "reading", "streams", "process_state", "kernel_cache"},
    1: {"config", "records", "files", "timetable", "selection", "matching", "user_code"},
    2: {"data", "models", "losses", "init", "optimizers", "schedules", "engines", "problems"},
    3: {
        "catalog",
        "imports",
        "anomaly",
        "metrics",
        "experiment",
        "building",
        "rundir",
        "run_files",
        "claim",
        "ownership",
        "checkpoint",
        "statistics",
        "plots",
        "console",
        "environment",
    },
    4: {"loop", "drawing"},
    5: {"recorder", "runner", "launch", "resume"},
    6: {"bench", "compare", "sweep", "landscape", "landscape_figures"},
    7: {"cli"},
}
FLOOR_OF = {room: floor for floor, rooms in FLOORS.items() for room in rooms}

# The building is the one place that may use every room below it.
STRANGERS = FLOORS[2]


def modules() -> list[Path]:
    return [path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py"]


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            parts = node.module.split(".")
            if parts[0] == "trainer":
                rooms |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            rooms |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("trainer.")}
    return rooms


def imports_at_the_top(path: Path) -> set[str]:
    """Every package that is imported when the module is."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
    return found


def test_every_room_has_a_floor() -> None:
    assert {room_of(path) for path in modules()} == set(FLOOR_OF)


def test_imports_only_go_down() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} (floor {FLOOR_OF[room_of(path)]}) imports {room} (floor {FLOOR_OF[room]})"
        for path in modules()
        for room in imported_rooms(path)
        if room != room_of(path) and FLOOR_OF[room] > FLOOR_OF[room_of(path)]
    ]
    assert wrong == []


def test_the_rooms_of_floor_2_never_import_one_another() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {room}"
        for path in modules()
        if room_of(path) in STRANGERS
        for room in imported_rooms(path) & STRANGERS - {room_of(path)}
    ]
    assert wrong == []


def test_the_loop_imports_the_experiment_and_the_records_alone() -> None:
    assert imported_rooms(ROOT / "loop.py") == {"experiment", "records"}


def test_only_the_console_imports_rich() -> None:
    users = {room_of(path) for path in modules() if "rich" in imports_at_the_top(path)}
    assert users == {"console"}


def test_config_and_command_line_do_without_torch() -> None:
    rooms = "config records timetable selection plots console rundir drawing cli/__init__ cli/verbs"
    for room in rooms.split():
        for path in modules():
            if str(path.relative_to(ROOT)).removesuffix(".py").startswith(room):
                assert "torch" not in imports_at_the_top(path), path
    assert (ROOT / "cli" / "__init__.py").exists()
