"""Modules import only from lower layers of the architecture.

docs/architecture.md shows the same picture for readers.
"""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

TRAINER = Path(__file__).resolve().parents[1] / "trainer"

# From the ground up. A room is a module or a folder right below `trainer`; it imports from layers below it,
# and from rooms of its own layer where these are not parts.
LAYERS = [
    {
        "errors",
        "seeding",
        "device",
        "matching",
        "reading",
        "streams",
        "interrupts",
        "kernel_cache",
        "process_state",
        "child_process",
    },
    {"config", "records", "tasks", "user_code"},
    {"data", "models", "optimizers", "schedules", "losses", "metrics", "problems", "trackers"},
    {"catalog", "imports", "console"},
    {"training", "statistics", "plots"},
    {"runs"},
    {"compare", "sweep", "suites", "landscape", "bench", "lessons", "contract"},
    {"report"},
    {"cli"},
    {"__main__"},
]
LAYER_OF = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}
PARTS = LAYERS[2]


def modules() -> list[Path]:
    return [path for path in TRAINER.rglob("*.py") if path != TRAINER / "__init__.py"]


def room_of(path: Path) -> str:
    return path.relative_to(TRAINER).parts[0].removesuffix(".py")


def imported_modules(path: Path) -> set[str]:
    """Return the dotted modules below `trainer` that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            if node.module == "trainer":
                found |= {alias.name for alias in node.names}
            elif node.module.startswith("trainer."):
                found |= {f"{node.module.removeprefix('trainer.')}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            found |= {name.removeprefix("trainer.") for name in names if name.startswith("trainer.")}
    return found


def imported_rooms(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported_modules(path)}


def packages_at_the_top(path: Path) -> set[str]:
    """Return every package that is imported when the module is."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
    return found


def test_every_room_has_a_layer() -> None:
    assert {room_of(path) for path in modules()} == set(LAYER_OF)


def test_imports_only_go_down() -> None:
    wrong = [
        f"{path.relative_to(TRAINER)} imports {room} from above"
        for path in modules()
        for room in imported_rooms(path)
        if room != room_of(path) and LAYER_OF[room] > LAYER_OF[room_of(path)]
    ]
    assert wrong == []


def test_parts_never_import_one_another() -> None:
    wrong = [
        f"{path.relative_to(TRAINER)} imports {room}"
        for path in modules()
        if room_of(path) in PARTS
        for room in imported_rooms(path) & PARTS - {room_of(path)}
    ]
    assert wrong == []


def test_no_two_rooms_of_a_layer_import_each_other() -> None:
    pairs = {(room_of(path), room) for path in modules() for room in imported_rooms(path)}
    assert {(one, other) for one, other in pairs if one < other and (other, one) in pairs} == set()


def test_no_modules_import_each_other_in_a_cycle() -> None:
    """An import inside a function counts too."""
    files = {".".join(path.relative_to(TRAINER).with_suffix("").parts): path for path in modules()}
    files = {name.removesuffix(".__init__"): path for name, path in files.items()}
    graph = {
        name: {
            one
            if one in files
            else one.rpartition(".")[0]  # `package.module.name` names a module or a function
            for one in imported_modules(path)
        }
        - {name}
        for name, path in files.items()
    }
    assert "sweep.messages" in graph["sweep.pool"]
    assert set(TopologicalSorter(graph).static_order()) >= set(files)  # raises CycleError


def test_the_loop_imports_the_experiment_and_the_records_alone() -> None:
    found = {name.rpartition(".")[0] for name in imported_modules(TRAINER / "training" / "loop.py")}
    assert found == {"training.experiment", "records"}


def test_only_the_console_imports_rich() -> None:
    assert {room_of(path) for path in modules() if "rich" in packages_at_the_top(path)} == {"console"}


def test_config_and_command_line_do_without_torch() -> None:
    for room in ("config", "records", "plots", "console", "runs/rundir", "runs/drawing", "cli/__init__"):
        found = [path for path in modules() if str(path.relative_to(TRAINER)).startswith(room)]
        assert found, room
        for path in found:
            assert "torch" not in packages_at_the_top(path), path


def test_private_names_of_torch_stay_in_one_folder() -> None:
    inductor = TRAINER / "training" / "engines" / "inductor"
    for path in modules():
        if not path.is_relative_to(inductor):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                    names = [*node.module.split("."), *(alias.name for alias in node.names)]
                    private = [name for name in names if name.startswith("_") and not name.startswith("__")]
                    assert names[0] != "torch" or not private, f"{path}: {private}"
