"""Every command that a page shows is one that can be typed: the verb is there, and so are its options."""

import itertools
import re
import shlex
from pathlib import Path

import pytest
import typer

from dpbench.cli.app import app

ROOT = Path(__file__).resolve().parents[3]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "dpbench" / "guide").glob("*.md")),
    *sorted((ROOT / "leaderboards").rglob("*.md")),
]


def shown(text):
    """The commands of a page: in fences, a line each, and in backticks with what follows their verb."""
    fenced = "\n".join(re.findall(r"^```(?:sh|text|)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE))
    lines = fenced.replace("\\\n", " ").splitlines()
    found = [line.partition("  #")[0].strip() for line in lines if line.startswith("dpbench ")]
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    inline = (" ".join(one.split()) for one in re.findall(r"`(dpbench [a-z][^`]*)`", prose))
    return [*found, *(one for one in inline if "..." not in one)]


COMMANDS = sorted({(command, path.name) for path in PAGES for command in shown(path.read_text(encoding="utf-8"))})


VERBS = typer.main.get_command(app)


def strangers(line):
    """Words of a command that are no verb and no option where they stand."""
    command, wrong, takes_value = VERBS, [], False
    for word in itertools.takewhile(lambda word: word not in ("|", ">"), shlex.split(line)[1:]):
        options = {name: option for option in command.params for name in (*option.opts, *option.secondary_opts)}
        if takes_value:
            takes_value = False
        elif word.startswith("--"):
            option = options.get(word.partition("=")[0])
            wrong += [word] if option is None else []
            takes_value = option is not None and not getattr(option, "is_flag", False) and "=" not in word
        elif hasattr(command, "commands"):
            known = command.commands.get(word)
            if known is None:
                return [*wrong, word]
            command = known
    return wrong


def test_there_are_commands_to_look_at():
    assert len(COMMANDS) > 80


@pytest.mark.parametrize("page", sorted({page for _, page in COMMANDS}))
def test_what_a_page_shows_can_be_typed(page):
    assert [(line, wrong) for line, of in COMMANDS if of == page and (wrong := strangers(line))] == []


def verbs(command, path=("dpbench",)):
    """Every verb in words, with the options that it has."""
    for name, inner in getattr(command, "commands", {}).items():
        yield from verbs(inner, (*path, name))
    yield " ".join(path), [name for option in command.params for name in option.opts if name.startswith("--")]


def test_every_verb_and_option_stands_on_a_page():
    text = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
    missing = {verb: [name for name in options if name not in text] for verb, options in verbs(VERBS)}
    general = missing.pop("dpbench")
    assert {verb: names for verb, names in missing.items() if names or verb not in text} == {}
    assert general == ["--version", "--show-completion"]


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("dpbench rum", ["rum"]),
        ("dpbench run quick --bugdet small | tee x", ["--bugdet"]),
        ("dpbench share exprot x", ["exprot"]),
        ("dpbench --protocol x.py:Y run --output --budget", []),
    ],
)
def test_a_planted_fault_is_found(line, wrong):
    assert strangers(line) == wrong
