import textwrap

import pytest

from dpbench.contract.attack import Attack
from dpbench.contract.defense import Defense
from dpbench.errors import DpbenchError
from dpbench.plugins import registry, sources
from dpbench.plugins.configuring import configure

FILE = """
    from typing import ClassVar
    from pydantic import Field
    from dpbench import Defense, ProtectedModel

    class Mine(Defense):
        name: ClassVar[str] = "mine"
        strength: float = Field(0.5, ge=0, le=1)

        def build(self, split):
            return ProtectedModel(split)
"""


@pytest.fixture
def plugin_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(textwrap.dedent(FILE))
    return path


def test_built_ins_are_found_through_the_entry_points():
    assert {"mean-image", "random-image", "decoder", "rmle", "gan"} <= set(registry.attacks())
    assert {"none", "gaussian", "laplace", "dropout", "quantise", "dpm"} <= set(registry.defenses())
    assert all(issubclass(cls, Attack) for cls in registry.attacks().values())
    assert all(issubclass(cls, Defense) for cls in registry.defenses().values())


def test_unknown_names_come_with_a_suggestion():
    with pytest.raises(DpbenchError, match="unknown attack 'decodr'; did you mean 'decoder'"):
        registry.find_attack("decodr")
    with pytest.raises(DpbenchError, match="unknown defense 'gausian'; did you mean 'gaussian'"):
        registry.find_defense("gausian")


def test_a_name_cannot_be_registered_twice():
    class Again(Defense):
        name = "none"

        def build(self, split):
            raise AssertionError

    with pytest.raises(DpbenchError, match="registered twice"):
        registry.register(Again)


def test_only_plug_ins_that_can_be_made_are_registered():
    with pytest.raises(DpbenchError, match="neither an Attack, a Defense, a Metric nor an ImageSet"):
        registry.register(dict)

    class Base(Defense):
        name = "base"

    with pytest.raises(DpbenchError, match="Base is abstract; register the classes that are derived from it"):
        registry.register(Base)


def test_a_single_file_is_a_plugin_and_its_content_is_its_version(plugin_file):
    reference = f"{plugin_file}:Mine"
    cls = registry.find_defense(reference)
    assert cls.name == "mine"
    before = sources.source_of(cls)
    assert registry.find_defense(reference) is cls
    plugin_file.write_text(plugin_file.read_text() + "\n# another\n")
    assert sources.source_of(registry.find_defense(reference)) != before


def test_parameters_are_checked(plugin_file):
    cls = registry.find_defense(f"{plugin_file}:Mine")
    assert configure(cls, {"strength": 1.0}).strength == 1.0
    with pytest.raises(DpbenchError, match=r"parameter strength = 2 does not fit.*strength = 0.5 \(>= 0, <= 1\)"):
        configure(cls, {"strength": 2})
    with pytest.raises(DpbenchError, match="unknown parameter of 'mine' 'strenght'; did you mean 'strength'"):
        configure(cls, {"strenght": 1})


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ("raise RuntimeError('boom')", "X", "does not import: RuntimeError: boom"),
        ("def broken(:", "X", "does not import: SyntaxError"),
        ("import no_such_package", "X", "No module named 'no_such_package'"),
        ("class Mine: pass", "Mine", "is not a subclass of dpbench.Defense"),
        ("import dpbench\nclass Mine(dpbench.Defense): pass", "Mine", "Mine is abstract; name a class"),
        ("import dpbench\nclass Mine(dpbench.Defense):\n def build(self): pass", "Mine", "import: Mine has no name"),
        ("class Mine: pass", "Mien", "did you mean 'Mine'"),
    ],
)
def test_files_that_are_no_plugin_are_refused_in_one_line(tmp_path, content, name, message):
    path = tmp_path / "broken.py"
    path.write_text(content)
    with pytest.raises(DpbenchError, match=message) as caught:
        registry.find_defense(f"{path}:{name}")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DpbenchError, match="there is no file"):
        registry.find_attack(f"{tmp_path}/nowhere.py:X")


def test_a_broken_installed_plugin_names_its_package(monkeypatch, vouched):
    class Entry:
        name, value = "theirs", "their_package"

        def load(self):
            raise ImportError("no module")

    monkeypatch.setattr(registry.importlib.metadata, "entry_points", lambda group: [Entry()])
    with pytest.raises(DpbenchError, match=r"plug-in 'theirs' \(their_package\) does not import"):
        registry.load_plugins.__wrapped__()
