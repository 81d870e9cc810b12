"""`dpbench ci` and `dpbench new`: what is printed and written works as it is."""

import json

import pytest
import yaml

from dpbench import testing
from dpbench.cli import starting
from dpbench.cli.app import app
from dpbench.errors import DpbenchError
from dpbench.plugins.registry import find

COMMANDS = {command.callback.__name__ for command in app.registered_commands}


def commands(service, parsed):
    """What the job runs, line by line."""
    if service == "gitlab":
        return parsed["dpbench"]["script"]
    return [step["run"] for step in parsed["jobs"]["leakage"]["steps"] if "run" in step]


@pytest.mark.parametrize("service", starting.SERVICES)
def test_a_job_installs_measures_gates_and_keeps_the_report(service, dpbench):
    outcome = dpbench("ci", service, "my_suite.toml", "--install", "pip install ./tools/dpbench")
    assert (outcome.status, outcome.err) == (0, "")
    lines = commands(service, yaml.safe_load(outcome.out))
    assert lines[:2] == ["pip install ./tools/dpbench", "dpbench run my_suite.toml --output run"]
    called = [part for line in lines for part in line.split("; ") if "dpbench " in part][1:]
    assert any("dpbench check run --baseline accepted.csv --junit gate.xml" in part for part in called)
    assert any(part.startswith("dpbench gate run --max-ssim") for part in called)
    assert {part.split("dpbench ")[1].split()[0] for part in called} <= COMMANDS
    for kept in ("run/report.html", "run/board.csv", "gate.xml", ".dpbench-cache"):
        assert kept in outcome.out
    assert "<<" not in outcome.out


def test_what_a_job_keeps_is_where_the_services_look_for_it(dpbench):
    job = yaml.safe_load(dpbench("ci", "gitlab").out)["dpbench"]
    assert job["artifacts"]["reports"] == {"junit": "gate.xml", "codequality": "quality.json"}
    assert job["artifacts"]["when"] == "always"
    assert job["variables"]["DPBENCH_CACHE"].endswith(job["cache"]["paths"][0])
    assert "--junit gate.xml --gitlab quality.json" in "\n".join(job["script"])
    parsed = yaml.safe_load(dpbench("ci", "github").out)
    assert parsed[True] == ["push", "pull_request"]  # YAML 1.1 reads `on` as a truth
    steps = parsed["jobs"]["leakage"]["steps"]
    upload = next(step for step in steps if "upload-artifact" in step.get("uses", ""))
    assert upload["if"] == "always()"
    assert "run/report.html" in upload["with"]["path"].splitlines()
    assert any("actions/cache" in step.get("uses", "") for step in steps)


@pytest.mark.parametrize("service", starting.SERVICES)
@pytest.mark.parametrize("suite", ["a: b #c.toml", "it's.toml", '"q".toml', "grün.toml", "$HOME/x.toml"])
def test_any_name_of_a_suite_stays_one_word_in_valid_yaml(service, suite):
    import shlex

    text = starting.job(service, suite, install='pip install "x: y" # z')
    lines = commands(service, yaml.safe_load(text))
    assert lines[0] == 'pip install "x: y" # z'
    assert shlex.split(lines[1]) == ["dpbench", "run", suite, "--output", "run"]


def test_what_is_no_job_is_refused(dpbench):
    outcome = dpbench("ci", "githb")
    assert (outcome.status, outcome.out) == (2, "")
    assert "unknown service 'githb'; did you mean 'github'?" in outcome.err
    with pytest.raises(DpbenchError, match="no command of one line"):
        starting.job("github", "quick", install="a\nb")


def test_the_install_line_is_that_of_this_dpbench(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    git = {"url": "https://example.org/dpbench.git", "vcs_info": {"vcs": "git", "commit_id": "c0ffee"}}
    assert starting._from_origin(git) == "pip install git+https://example.org/dpbench.git@c0ffee"
    assert starting._from_origin({"url": tmp_path.as_uri(), "dir_info": {}}) == "pip install ."
    assert starting._from_origin({"url": (tmp_path / "tools").as_uri()}) == "pip install ./tools"
    assert starting._from_origin({"url": "file:///somewhere/else"}) == starting.CLONE
    assert "install dpbench" not in starting.install_line()


@pytest.mark.parametrize("kind", starting.KINDS)
def test_a_new_file_is_written_once_and_runs(kind, tmp_path, dpbench, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = "my_" + kind + (".toml" if kind == "suite" else ".py")
    outcome = dpbench("new", kind)
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.startswith(f"written to {file}; next: ")
    if kind == "suite":
        planned = dpbench("run", file, "--dry-run")
        assert planned.status == 0, planned
        assert "gaussian std=1.0" in planned.out
    else:
        reference = f"{file}:{starting.class_name(tmp_path / file)}"
        assert reference in outcome.out
        cls = find(kind, reference)
        assert cls.name == ("my_metric" if kind == "metric" else f"my-{kind}")
    (tmp_path / file).write_text("mine")
    again = dpbench("new", kind)
    assert (again.status, again.out) == (2, "")
    assert f"{file} is there already and is left as it is" in again.err
    assert (tmp_path / file).read_text() == "mine"


@pytest.mark.parametrize("kind", ["defense", "attack", "metric"])
def test_a_new_plug_in_keeps_to_the_contract(kind, tmp_path, vouched):
    path = tmp_path / "team" / f"own {kind} 2.py"
    path.parent.mkdir()
    path.write_text(starting.begin(kind, path))
    cls = find(kind, f"{path}:{starting.class_name(path)}")
    assert cls.__name__ == f"Own{kind.capitalize()}2"
    getattr(testing, f"check_{kind}")(cls)


def test_what_cannot_be_written_is_refused(tmp_path, dpbench):
    for arguments, words in (
        (["defence"], "unknown kind of file 'defence'; did you mean 'defense'?"),
        (["defense", tmp_path / "x.toml"], "a defense is a file that ends in .py"),
        (["suite", tmp_path / "x"], "a suite is a file that ends in .toml"),
    ):
        outcome = dpbench("new", *arguments)
        assert (outcome.status, outcome.out) == (2, "")
        assert words in outcome.err
    (tmp_path / "dangling.toml").symlink_to(tmp_path / "gone")
    assert dpbench("new", "suite", tmp_path / "dangling.toml").status == 2
    assert not (tmp_path / "gone").exists()


def test_how_to_try_it_is_a_line_to_copy(tmp_path):
    assert starting.how_to_try("suite", tmp_path / "a b.toml").endswith("a b.toml'")
    assert json.loads(starting.how_to_try("metric", tmp_path / "m.py").split("= ")[1].removesuffix(" in a suite"))


@pytest.mark.parametrize(
    ("file", "kind", "name", "cls"),
    [
        ("none.py", "attack", "none", "MyNone"),
        ("a_metric_with_a_name_that_is_far_too_long.py", "metric", "a_metric_with_a_name_that_is_far", None),
        (f"{'x' * 80}.toml", "suite", "x" * 64, None),
    ],
)
def test_any_name_of_a_file_gives_names_that_can_be(tmp_path, file, kind, name, cls):
    text = starting.begin(kind, tmp_path / file)
    assert f'"{name}"' in text
    if cls is not None:
        assert starting.class_name(tmp_path / file) == cls
        assert f"class {cls}(" in text
