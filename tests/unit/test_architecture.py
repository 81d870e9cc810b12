"""The plan of the house: rooms with one-way doors, plug-ins that know the engine alone, no device of own choice."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {
    "dpbench": ROOT / "dpbench",
    "dpbench_attacks": ROOT / "attacks" / "dpbench_attacks",
    "dpbench_defenses": ROOT / "defenses" / "dpbench_defenses",
}
FORBIDDEN = {
    "dpbench": {"dpbench_attacks", "dpbench_defenses"},
    "dpbench_attacks": {"dpbench_attacks", "dpbench_defenses"},
    "dpbench_defenses": {"dpbench_attacks", "dpbench_defenses"},
}
FILES = [(package, path) for package, folder in FOLDERS.items() for path in sorted(folder.rglob("*.py"))]


ROOMS = (
    ("text",),
    ("errors",),
    ("machine",),
    ("contract",),
    ("data",),
    ("models",),
    ("service",),
    ("border",),
    ("plugins",),
    ("metrics",),
    ("suite",),
    ("records",),
    ("toolkit",),
    ("board",),
    ("executors",),
    ("cells",),
    ("running",),
    ("tradeoffs",),
    ("reporting",),
    ("report",),
    ("protocols",),
    ("answers", "exchange", "gate", "viewing"),
    ("testing",),
    ("notebook",),
    ("api",),
    ("cli",),
    ("__main__",),
)
"""From the ground up: a room imports only what stands below it, and nothing of its neighbours on the same floor."""

SMALLEST, LARGEST = 4, 9
"""Files of a room, without its `__init__`."""

LONGEST = 300
"""Lines of a file."""

FLOORS = {room: floor for floor, rooms in enumerate(ROOMS) for room in rooms}


def modules(root: Path) -> dict[str, Path]:
    """Name, below the package, -> file; `suite.cell` is a module, `suite` the room itself."""
    names = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def edges(known: dict[str, Path]) -> dict[str, set[str]]:
    """Module -> the modules that it imports, at its head or later."""
    found: dict[str, set[str]] = {}
    for module, path in known.items():
        found[module] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                below = [f"{node.module}.{alias.name}" for alias in node.names]
                names = [name if name.removeprefix("dpbench.") in known else node.module for name in below]
            else:
                continue
            found[module] |= {name.removeprefix("dpbench.") for name in names if name.startswith("dpbench.")}
    return found


def upward(found: dict[str, set[str]]) -> list[str]:
    """Imports that do not point down."""
    wrong = []
    for module, others in found.items():
        room = module.partition(".")[0]
        for other in others:
            there = other.partition(".")[0]
            if module and there != room and FLOORS[there] >= FLOORS[room]:
                wrong.append(f"{module} imports {other}")
    return sorted(wrong)


def circles(found: dict[str, set[str]]) -> list[str]:
    """Modules that import each other, through whatever others; the package itself imports its public names lazily."""
    left = {module: set(others) - {""} for module, others in found.items() if module}
    while free := [module for module, others in left.items() if not others & left.keys()]:
        for module in free:
            del left[module]
    return sorted(left)


def test_every_import_points_down():
    assert not upward(edges(modules(FOLDERS["dpbench"])))


def test_no_import_goes_in_a_circle():
    assert not circles(edges(modules(FOLDERS["dpbench"])))


def test_every_room_has_a_floor_and_a_size_to_be_taken_in_at_a_glance():
    root = FOLDERS["dpbench"]
    rooms = [path.parent for path in root.rglob("__init__.py") if path.parent != root]
    assert {path.relative_to(root).parts[0] for path in rooms} | {"errors", "api", "__main__"} == set(FLOORS)
    for room in rooms:
        entries = [p for p in room.iterdir() if p.suffix == ".py" and p.name != "__init__.py"]
        assert len(entries) <= LARGEST, room
        assert len(entries) >= SMALLEST or room.name == "protocols", room


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("machine/devices.py", "from dpbench.running.runner import make_plan"),
        ("machine/devices.py", "from dpbench.running import runner"),
        ("machine/devices.py", "import dpbench.board.rows"),
        ("board/rows.py", "def later():\n    from dpbench.running import runner"),
    ],
)
def test_a_planted_upward_import_is_found(tmp_path, file, line):
    root = tmp_path / "dpbench"
    for name in ("running/runner.py", "board/rows.py", "machine/devices.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")
    assert not upward(edges(modules(root)))
    (root / file).write_text(line)
    assert len(upward(edges(modules(root)))) == 1


def test_a_planted_circle_is_found(tmp_path):
    (tmp_path / "board").mkdir()
    for name, other in (("rows", "cells"), ("cells", "files"), ("files", "rows")):
        (tmp_path / "board" / f"{name}.py").write_text(f"from dpbench.board import {other}")
    (tmp_path / "board" / "above.py").write_text("from dpbench.board.rows import Row")
    assert circles(edges(modules(tmp_path))) == ["board.above", "board.cells", "board.files", "board.rows"]


def test_every_file_can_be_read_in_one_sitting():
    lines = {path.relative_to(ROOT): len(path.read_text(encoding="utf-8").splitlines()) for _, path in FILES}
    assert {path: count for path, count in lines.items() if count > LONGEST} == {}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize(("package", "path"), FILES, ids=[f"{p}/{f.name}" for p, f in FILES])
def test_imports_point_towards_the_engine(package, path):
    machinery = f"{package}._"  # files of a plug-in package that hold no plug-in
    others = {name for name in imports(path) if package == "dpbench" or not name.startswith(machinery)}
    assert not {name.split(".")[0] for name in others} & FORBIDDEN[package]


@pytest.mark.parametrize(("package", "path"), FILES, ids=[f"{p}/{f.name}" for p, f in FILES])
def test_no_device_is_hard_coded_and_no_global_seed_is_set(package, path):
    text = path.read_text(encoding="utf-8")
    assert ".cuda(" not in text
    if path.name != "randomness.py":
        assert "manual_seed(" not in text.replace("answers.manual_seed(", "").replace(").manual_seed(", "")
    if path.name != "devices.py":
        assert 'torch.device("cuda' not in text
    assert "weights_only=False" not in text


def test_help_does_not_import_torch():
    code = "import sys, dpbench.cli.app; assert 'torch' not in sys.modules and 'pandas' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
