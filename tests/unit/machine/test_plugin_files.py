"""A plug-in file and what it uses of its folder: imported for it alone, and part of its identity."""

import sys
import textwrap
from pathlib import Path

import pytest

import dpbench
from dpbench.contract.spec import PluginSpec
from dpbench.errors import DpbenchError
from dpbench.machine import plugin_files
from dpbench.plugins import registry, sources
from dpbench.plugins.configuring import defense_of
from dpbench.suite.grid import plugin_settings
from dpbench.suite.suite import PluginEntry

PLUGIN = """
    from pathlib import Path
    from typing import ClassVar
    import dpbench
    import helper

    class Mine(dpbench.Defense):
        name: ClassVar[str] = "mine"
        level: int = helper.LEVEL

        def build(self, split):
            import late
            return dpbench.ProtectedModel(split)

        def late(self):
            import late
            return late.VALUE
"""


def write(folder: Path, name: str = "mine.py", **helpers: str) -> str:
    """A plug-in file with helpers beside it; the reference to its class."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(textwrap.dedent(PLUGIN))
    for module, text in {"helper": "LEVEL = 1", "late": "VALUE = 1", **helpers}.items():
        (folder / f"{module}.py").write_text(text)
    return f"{folder / name}:Mine"


def spec_of(reference: str, **arguments: object) -> PluginSpec:
    ((spec, _),) = plugin_settings(PluginEntry(name=reference, **arguments), registry.find_defense)
    return spec


def test_modules_beside_a_plugin_are_its_own(tmp_path, vouched):
    before = list(sys.path)
    one = registry.find_defense(write(tmp_path / "a"))
    two = registry.find_defense(write(tmp_path / "b", helper="LEVEL = 2", late="VALUE = 2"))
    assert (one().level, two().level) == (1, 2)
    assert (one().late(), two().late()) == (1, 2)  # imported when it is called
    assert sys.path == before
    assert not {"helper", "late", "mine"} & set(sys.modules)


def test_packages_and_relative_imports_beside_a_plugin(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "__init__.py").write_text("")
    (tmp_path / "parts" / "inner.py").write_text("from ..base import BASE\nfrom . import other\nDEPTH = BASE + other.N")
    (tmp_path / "parts" / "other.py").write_text("N = 2")
    (tmp_path / "base.py").write_text("BASE = 40")
    reference = write(tmp_path, helper="import parts.inner as inner\nfrom parts.inner import *\nLEVEL = inner.DEPTH")
    assert registry.find_defense(reference)().level == 42
    before = sources.source_of(registry.find_defense(reference))
    (tmp_path / "parts" / "other.py").write_text("N = 3")  # two imports away
    assert sources.source_of(registry.find_defense(reference)) != before
    assert registry.find_defense(reference)().level == 43


@pytest.mark.parametrize("changed", ["mine.py", "helper.py", "late.py"])
def test_an_edited_module_is_another_plugin(tmp_path, changed):
    reference = write(tmp_path)
    planned = spec_of(reference)
    defense_of(planned)
    with (tmp_path / changed).open("a") as file:
        file.write("\n# another")
    assert spec_of(reference).identity != planned.identity
    with pytest.raises(DpbenchError, match=f"{changed} changed since the run was planned"):
        defense_of(planned)


def test_what_was_compiled_before_is_not_taken_for_what_is_there(tmp_path):
    """Python tells compiled files by the second and the size alone."""
    reference = write(tmp_path)
    assert registry.find_defense(reference)().level == 1
    write(tmp_path, helper="LEVEL = 7")
    assert registry.find_defense(reference)().level == 7
    assert not (tmp_path / "__pycache__").exists()


def test_files_that_the_code_names_are_hashed(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "prior.bin").write_bytes(b"one")
    text = 'from pathlib import Path\nPRIOR = Path(__file__).parent / "data" / "prior.bin"\nLEVEL = 1'
    reference = write(tmp_path, helper=text)
    before = spec_of(reference)
    assert "data/prior.bin" in before.files
    (tmp_path / "data" / "prior.bin").write_bytes(b"two")
    assert spec_of(reference).identity != before.identity


def test_a_reference_has_one_identity_however_it_is_spelt(tmp_path, monkeypatch):
    absolute = write(tmp_path / "home" / "x")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "home" / "x")
    (tmp_path / "link.py").symlink_to(tmp_path / "home" / "x" / "mine.py")
    spelt = ["mine.py:Mine", "./mine.py:Mine", "../x/mine.py:Mine", "~/x/mine.py:Mine", absolute]
    specs = [spec_of(name) for name in [*spelt, f"{tmp_path}/link.py:Mine"]]
    assert all(spec == specs[0] for spec in specs)
    assert specs[0].name == "mine.py:Mine"
    monkeypatch.chdir(tmp_path)  # nor does the folder matter from which it is called
    assert spec_of(absolute).identity == specs[0].identity


def test_equal_names_in_two_folders_are_two(tmp_path):
    one, two = spec_of(write(tmp_path / "a")), spec_of(write(tmp_path / "b", helper="LEVEL = 2"))
    assert one.identity != two.identity


def test_a_plugin_file_may_use_any_name_and_may_register(tmp_path):
    text = (
        textwrap.dedent(PLUGIN).replace('"mine"', '"gaussian"').replace("class Mine", "@dpbench.register\nclass Mine")
    )
    reference = write(tmp_path)
    (tmp_path / "mine.py").write_text(text)
    assert registry.find_defense(reference).name == "gaussian"
    (tmp_path / "mine.py").write_text(text + "\n# edited")
    assert registry.find_defense(reference) is not registry.defenses()["gaussian"]


def test_a_plugin_that_does_not_import_leaves_nothing_behind(tmp_path):
    reference = write(tmp_path, helper="raise RuntimeError('boom')")
    before = set(sys.modules)
    for _ in range(2):
        with pytest.raises(DpbenchError, match="does not import: RuntimeError: boom"):
            registry.find_defense(reference)
    assert set(sys.modules) == before


MASKED = """
    from typing import ClassVar
    import dpbench

    class Masked(dpbench.Defense):
        name: ClassVar[str] = "masked"
        mask: dpbench.File
        more: list[dpbench.File] = []

        def build(self, split):
            return dpbench.ProtectedModel(split)
"""


@pytest.fixture
def masked(tmp_path):
    (tmp_path / "masked.py").write_text(textwrap.dedent(MASKED))
    for folder, content in (("one", b"a"), ("same", b"a"), ("two", b"b")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mask.pth").write_bytes(content)
    return f"{tmp_path}/masked.py:Masked"


def test_a_file_is_identified_by_its_content(masked, tmp_path):
    one, same, two = (spec_of(masked, mask=str(tmp_path / name / "mask.pth")) for name in ("one", "same", "two"))
    assert one.identity == same.identity
    assert one.identity != two.identity
    assert str(tmp_path) not in str(one.identity)
    assert str(tmp_path) not in str(one.shown_arguments)
    assert one.shown_arguments["mask"].startswith("mask.pth:")
    lists = [spec_of(masked, mask=one.arguments["mask"], more=[[spec.arguments["mask"]]]) for spec in (one, two)]
    assert lists[0].identity != lists[1].identity


def test_a_file_is_looked_at_again_when_it_is_used(masked, tmp_path):
    planned = spec_of(masked, mask=str(tmp_path / "one" / "mask.pth"))
    defense_of(planned)
    (tmp_path / "one" / "mask.pth").write_bytes(b"c")
    with pytest.raises(DpbenchError, match="mask changed since the run was planned"):
        defense_of(planned)


def test_a_missing_file_is_one_line(masked, tmp_path):
    with pytest.raises(DpbenchError, match=r"parameter mask = .* there is no file") as caught:
        spec_of(masked, mask=str(tmp_path / "nowhere.pth"))
    assert "\n" not in str(caught.value)


def test_a_default_is_looked_at_too(masked, tmp_path):
    path = Path(masked.rpartition(":")[0])
    text = path.read_text()
    path.write_text(
        text.replace("mask: dpbench.File", 'mask: dpbench.File = __file__.replace("masked.py", "one/mask.pth")')
    )
    assert spec_of(masked).identity["arguments"]["mask"].startswith("sha256:")
    (tmp_path / "one" / "mask.pth").unlink()
    with pytest.raises(DpbenchError, match="there is no file"):
        spec_of(masked)


def test_file_is_public():
    assert "File" in dpbench.__all__


def test_an_installed_package_is_identified_by_its_content_too(tmp_path, monkeypatch):
    package = tmp_path / "their_package"
    package.mkdir()
    (package / "__init__.py").write_text("from their_package.defense import Theirs")
    text = textwrap.dedent(PLUGIN).replace("import helper", "").replace("helper.LEVEL", "1").replace("Mine", "Theirs")
    (package / "defense.py").write_text(text)
    (package / "prior.bin").write_bytes(b"one")
    monkeypatch.syspath_prepend(str(tmp_path))
    from their_package import Theirs

    one = sources.source_of(Theirs)
    assert one.startswith("v1-")
    assert sources.source_of(registry.defenses()["gaussian"]) == "v1"
    (package / "prior.bin").write_bytes(b"two")
    sources._content_of.cache_clear()
    assert sources.source_of(Theirs) != one
    for name in [name for name in sys.modules if name.startswith("their_package")]:
        del sys.modules[name]


def test_large_files_are_hashed_once_for_each_state(tmp_path, monkeypatch):
    monkeypatch.setattr(plugin_files, "SMALL", 0)
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    one = plugin_files.file_hash(path)
    path.write_bytes(b"other")
    assert plugin_files.file_hash(path) != one
