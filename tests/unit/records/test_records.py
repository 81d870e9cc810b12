"""Records: what no record may hold is refused in one line, and reading one runs no code."""

import json
import math
import os

import kept_run
import pytest
from record_factory import make_record
from sharing_records import attacked, trained

from dpbench import load_records
from dpbench.errors import DpbenchError
from dpbench.protocols.sharing import records as sharing
from dpbench.records import store
from dpbench.records.record_files import digest_of

PAYLOAD = """
from pathlib import Path
Path({mark!r}).write_text("ran")
from dpbench import Attack, Defense
class X(Defense):
    name = "payload"
"""


def forge(path, change, *, sealed=True):
    content = json.loads(path.read_text())
    change(content)
    content.pop("digest", None)
    if sealed:
        content["digest"] = digest_of(content)
    path.write_text(json.dumps(content))


def _foreign(content, name="payload.py:X"):
    """As a stranger writes it: no words, plug-ins in files."""
    content["words"] = None
    subject = content.get("cell") or content["unit"]
    subject["defense"]["name"] = name
    subject["attack"]["name"] = name
    if "cell" in content:
        # stays found under its name: what is compared are contents
        content["cell"]["dataset"]["name"] = name


VERBS = {
    "inference": (
        ["show", "RUN"],
        ["show", "RUN", "--output", "OUT.png"],
        ["leaderboard", "RUN", "--output", "OUT.csv"],
        ["leaderboard", "RUN", "--output", "OUT.md"],
        ["leaderboard", "RUN", "--output", "OUT.png"],
        ["leaderboard", "RUN", "--claimed", "RUN", "--output", "OUT.html"],
        ["check", "RUN", "--baseline", "RUN"],
        ["verify", "RUN"],
    ),
    "sharing": (
        ["show", "RUN"],
        ["leaderboard", "RUN", "--output", "OUT.csv"],
        ["leaderboard", "RUN", "--output", "OUT.csv", "--plot", "transfer"],
        ["verify", "RUN"],
    ),
}


@pytest.mark.parametrize("protocol", VERBS)
def test_nothing_that_reads_a_run_imports_a_plugin(tmp_path, protocol, dpbench, monkeypatch):
    run, mark = tmp_path / "run", tmp_path / "ran"
    if protocol == "inference":
        kept_run.make_run(run, board=False)
    else:
        kept_run.make_sharing_run(run)
    for folder in (tmp_path, run, run / "records", run / "sharing"):
        if folder.is_dir():
            (folder / "payload.py").write_text(PAYLOAD.format(mark=str(mark)))
    for path in run.rglob("*.json"):
        forge(path, _foreign)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    done = [dpbench(*(word.replace("RUN", "run").replace("OUT", "out") for word in verb)) for verb in VERBS[protocol]]
    if protocol == "inference":
        load_records(run)
    assert not any("Traceback" in outcome.err for outcome in done)
    assert any("payload.py:X" in outcome.out for outcome in done)  # it is named, by its name
    assert not mark.exists()


def test_words_of_before_are_those_of_today_for_built_in_plugins():
    record = make_record(defense="gaussian", defense_args={"std": 0.5}, attack="decoder", attack_args={"steps": 7})
    assert record.words is None
    assert record.named.label == "resnet10t layer1 | gaussian std=0.5 | decoder | weights | seed 0"
    assert "decoder steps=7" in record.named.full
    foreign = make_record(defense="/x/mine.py:A", defense_args={"a": 1, "b": 2}, attack="their.py:B")
    assert foreign.named.defense == "mine.py:A a=1 b=2"
    assert foreign.named.attack == "their.py:B"


def _set(*path, value):
    def change(content):
        for name in path[:-1]:
            content = content[name]
        content[path[-1]] = value

    return change


COST = {"multiply_adds": 300, "added_multiply_adds": 100, "parameters": 50, "added_parameters": 20}


IMPOSSIBLE = {
    "mse": _set("fidelity", "mse", value=[-1.0] * 4),
    "ssim": _set("fidelity", "ssim", value=[1e308] * 4),
    "psnr": _set("fidelity", "psnr_db", value=[1000.0] * 4),
    "lpips": _set("fidelity", "lpips", value=[-0.5] * 4),
    "lengths": _set("fidelity", "ssim", value=[0.5] * 3),
    "victims": _set("victims", value=["a"] * 3),
    "ranks": _set("recognition", "reid_rank", value=[-1] * 4),
    "ranks beyond": _set("recognition", "reid_rank", value=[100] * 4),
    "answers": _set("recognition", "label_read", value=[True]),
    "gallery": _set("recognition", "gallery", value=0),
    "judge": _set("recognition", "judge_accuracy", value=1.5),
    "seconds": _set("seconds", value={"attack": -1.0}),
    "memory": _set("peak_memory_mb", value={"attack": -1.0}),
    "bits": _set("release_bits", value=-3),
    "hits": _set("utility", "correct", value=[]),
    "top5": _set("utility", "top5", value=[False] * 4),
    "bound": _set("guarantees", value={"mse_bound": [-1.0] * 4}),
    "epsilon": _set("guarantees", value={"mse_bound": [1.0] * 4, "epsilon": -1.0, "delta": 2.0}),
    "bits of an image": _set("guarantees", value={"mse_bound": [1.0] * 4, "information_bits": -1.0}),
    "share": _set("released", value={"client_share": "all of it"}),
    "work": _set("cost", value=dict(COST, multiply_adds=-1)),
    "work added": _set("cost", value=dict(COST, added_multiply_adds=301)),
    "stored": _set("cost", value=dict(COST, added_parameters=51)),
    "coded": _set("cost", value=dict(COST, coded_bits=-1)),
    "cost of what": _set("cost", value=dict(COST, price=1)),
    "time": _set("client_ms", value=-1.0),
    "links": _set("link", value={"rank": [0] * 3, "candidates": 9}),
    "link ranks": _set("link", value={"rank": [9] * 4, "candidates": 9}),
    "candidates": _set("link", value={"rank": [0] * 4, "candidates": 3}),
    "headline": _set("headline", value="__class__"),
    "created": _set("created", value="yesterday"),
    "schema": _set("schema_version", value="new"),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_cannot_be_is_refused_in_one_line(tmp_path, name):
    record = make_record(mse=0.1, psnr_db=20, lpips=0.3, reid_rank=1)
    store.CELLS.write(tmp_path, record)
    path = store.CELLS.path(tmp_path, record.id)
    forge(path, IMPOSSIBLE[name])
    with pytest.raises(DpbenchError) as refused:
        store.CELLS.read(path)
    assert str(path) in str(refused.value)
    assert "run the suite again" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "text", ["[1", "[]", "null", "1", '{"a": NaN}', "[" * 100_000, '{"schema_version": 3}', "\x00"]
)
def test_what_is_no_record_is_refused_in_one_line(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(DpbenchError, match="cut short or damaged"):
        store.CELLS.read(path)


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "1e999", "-1e999"])
def test_numbers_that_are_none_are_refused(tmp_path, literal):
    record = make_record()
    store.CELLS.write(tmp_path, record)
    path = store.CELLS.path(tmp_path, record.id)
    path.write_text(path.read_text().replace('"attack": 1.0', f'"attack": {literal}'))
    with pytest.raises(DpbenchError, match="record"):
        store.CELLS.read(path)


def test_how_close_an_attack_came_in_words():
    assert make_record(ssim=[0.5, 1.0, 0.5, 1.0]).recovered == "SSIM 0.75"
    measured = make_record(ssim=0.5, lpips=0.25, reid_rank=[0, 3, 0, 0])
    assert measured.recovered == "SSIM 0.50, LPIPS 0.25, re-id 75%"
    assert make_record(ssim=None, failed="no memory").recovered == "no SSIM"


def test_what_cannot_be_of_sharing_runs_is_refused(tmp_path):
    hits = [True, False]
    for record, change in (
        (trained("own", hits), _set("trained", "correct", value=[])),
        (trained("own", hits), _set("trained", "public_correct", value=[True])),
        (trained("defended-features", hits, defense="dpm"), _set("trained", "serves", "clinic", value=2.0)),
        (attacked("decoder", "query", [0.5] * 4, "dpm"), _set("fidelity", "ssim", value=[7.0] * 4)),
        (attacked("decoder", "query", [0.5] * 4, "dpm"), _set("seconds", value={"attack": -1})),
    ):
        sharing.SHARED.write(tmp_path, record)
        path = sharing.SHARED.path(tmp_path, record.id)
        assert sharing.SHARED.read(path).id == record.id
        forge(path, change)
        with pytest.raises(DpbenchError, match="holds what cannot be"):
            sharing.SHARED.read(path)


def test_what_is_written_is_what_is_read(tmp_path):
    record = make_record(mse=0.1, mse_bound=2.0, epsilon=3.0)
    assert store.CELLS.write(tmp_path, record) == record
    assert list(store.CELLS.all(tmp_path)) == [record]


def test_a_bound_that_is_no_number_is_no_bound_and_the_record_says_so(tmp_path):
    for bound in (math.nan, math.inf, -1.0):
        stored = store.CELLS.write(tmp_path, make_record(mse_bound=[1.0, bound, 1.0, 1.0]))
        assert list(store.CELLS.all(tmp_path)) == [stored]
        assert stored.status == "ok"
        assert stored.guarantees is None
        assert "1 of 4 victims" in stored.missing_metrics["mse_bound"]
    stored = store.CELLS.write(tmp_path, make_record(mse_bound=1.0, epsilon=math.inf))
    assert stored.guarantees.epsilon is None
    assert "inf" in stored.missing_metrics["epsilon"]
    stored = store.CELLS.write(tmp_path, make_record(mse_bound=1.0, information_bits=math.nan))
    assert stored.guarantees.information_bits is None
    assert "nan" in stored.missing_metrics["information_bits"]


def test_a_metric_that_is_no_number_counts_as_not_measured(tmp_path):
    for record, kept in (
        (make_record(ssim=0.5, lpips=[0.1, math.nan, 0.1, 0.1]), store.CELLS),
        (attacked("decoder", "query", [0.5] * 4, "dpm"), sharing.SHARED),
    ):
        record = record.model_copy(update={"fidelity": {**record.fidelity, "lpips": [0.1, math.nan, 0.1, 0.1]}})
        stored = kept.write(tmp_path / kept.folder, record)
        assert list(kept.all(tmp_path / kept.folder)) == [stored]
        assert "lpips is nan" in stored.missing_metrics["lpips"]
        assert set(stored.fidelity) == {"ssim"}


def test_what_no_record_can_hold_is_a_failed_record_that_can_be_read(tmp_path):
    record = make_record()
    for change in (
        {"trained_on": [object()]},
        {"release_bits": -5},
        {"seconds": {"attack": math.nan}},
        {"released": {"client_share": math.inf}},
        {"fidelity": {"ssim": [0.5]}},
    ):
        stored = store.CELLS.write(tmp_path, record.model_copy(update=change))
        assert stored.status == "failed"
        assert stored.error.startswith("what was measured cannot be stored: ")
        assert list(store.CELLS.all(tmp_path)) == [stored]


def test_restore_writes_what_is_gone(tmp_path):
    records = [make_record(seed=seed) for seed in range(2)]
    store.CELLS.write(tmp_path, records[0])
    assert store.CELLS.restore(tmp_path, records) == 1
    assert len(os.listdir(tmp_path / "records")) == 2


def test_records_that_are_read_hold_once_what_they_say_alike(tmp_path):
    alike = {"correct": [True, False] * 50, "victims": 8}
    for attack, ssim in (("decoder", 0.5), ("rmle", 0.4), ("glass", 0.3)):
        store.CELLS.write(tmp_path, make_record(attack=attack, ssim=ssim, **alike))
    store.CELLS.write(tmp_path, make_record(attack="rmle", ssim=0.4, defense="dpm", correct=[True] * 100, victims=8))
    read = list(store.CELLS.all(tmp_path))
    alone = [store.CELLS.read(path) for path in store.CELLS.files(tmp_path)]
    assert read == alone
    assert [one.id for one in read] == [one.cell.id for one in read]
    assert len({id(one.victims) for one in read}) == 1
    assert len({id(one.cell.dataset) for one in read}) == 1
    assert len({id(one.utility) for one in read}) == 2
    assert len({id(one.utility) for one in alone}) == 4
