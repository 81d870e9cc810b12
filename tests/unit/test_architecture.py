"""The dependency direction: attacks -> dpbench <- defenses, and no tensor on a device of its own choice."""

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
    code = "import sys, dpbench.cli; assert 'torch' not in sys.modules and 'pandas' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
