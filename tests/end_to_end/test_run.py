"""The whole path as a user walks it, on the suite smoke."""

import json
import shutil
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
from command_line import environment, refused
from PIL import Image
from tiny_suite import tiny_suite

import dpbench as package
from dpbench import api
from dpbench.errors import DpbenchError
from dpbench.records import store
from dpbench.running import driving
from dpbench.suite.ensembles import ENSEMBLES

RMLE = {
    **{"name": "rmle", "steps": 5, "total_variation": 0.1, "nearness": 0},
    **{"decoder_steps": 8, "decoder_width": 16, "decoder_blocks": 1},
}
DEFENSES = ("none", {"name": "gaussian", "std": 0.5})


def suite(defenses=DEFENSES, **top):
    images = {"image_size": 16, "private": 128, "auxiliary": 64}
    attacks = ("mean-image", "random-image", RMLE)
    return tiny_suite(defenses, attacks, dataset=images, threat_models=["static", "weights"], **top)


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(suite())
    return path


def figures(run_dir):
    """What has to be equal between two runs: everything but times, memory and dates."""
    drop = {"seconds", "client_ms", "peak_memory_mb", "memory", "created"}
    return {record.id: record.model_dump_json(exclude=drop) for record in store.CELLS.all(run_dir)}


def test_smoke_measures_every_cell(smoke_run):
    records = list(store.CELLS.all(smoke_run))
    assert {record.status for record in records} == {"ok"}
    assert {record.cell.attack.name for record in records} == set(ENSEMBLES["ensemble-v1.1"])
    assert {(r.cell.threat_model, r.cell.auxiliary) for r in records if r.cell.attack.name == "decoder"} == {
        (threat_model, auxiliary) for threat_model in ("static", "query") for auxiliary in ("same", "shifted")
    }
    for record in records:
        assert set(record.fidelity) == {"mse", "psnr_db", "ssim", "lpips"}
        assert all(len(values) == record.cell.victims for values in record.fidelity.values())
        assert len(record.utility.correct) == 64
        assert record.environment["versions"]["torch"]
        assert {"attack", "release", "fidelity"} <= set(record.seconds) == set(record.peak_memory_mb)
        assert store.picture_path(smoke_run, record.id).is_file()
        assert record.released["shape"] == [64, 8, 8]
        assert record.release_bits == 64 * 8 * 8 * (2 if record.cell.defense.name == "quantise" else 32)
        assert 0 < record.cost.coded_bits < record.release_bits
        assert record.client_ms > 0
        dpm = record.cell.defense.name == "dpm"
        assert (record.cost.added_multiply_adds > 10**6, record.released["client_share"] > 0.6) == (dpm, dpm)
        assert (record.link is None) == record.floor
        if record.link is not None:
            assert len(record.link.rank) == record.cell.victims
            assert record.link.candidates == 64 + 256
            named = sum(rank == 0 for rank in record.link.rank) / record.cell.victims
            assert named == 1 or record.cell.threat_model == "static"
        assert (record.guarantees is not None) == (record.cell.defense.name == "gaussian")
        assert record.trained_on == (["ssim"] if record.cell.defense.name == "dpm" else [])
        recognition = record.recognition
        assert len(recognition.reid_rank) == len(recognition.label_read) == record.cell.victims
        assert recognition.gallery == 64
        assert recognition.judge != record.cell.backbone.name
        assert record.converged == record.notes.get("converged")


def test_all_attacks_of_a_setting_see_the_same_victims_and_the_same_utility(smoke_run):
    settings = {}
    for record in store.CELLS.all(smoke_run):
        key = json.dumps(record.cell.defense.model_dump())
        settings.setdefault(key, set()).add((tuple(record.victims), tuple(record.utility.correct)))
    assert all(len(seen) == 1 for seen in settings.values())


def test_the_static_tier_is_beside_the_headline_and_not_for_the_undefended(smoke_run):
    board = pd.read_csv(smoke_run / "board.csv")
    static = board[(board.threat_model == "static") & (board.attack != "worst-case")]
    assert set(static.attack) == {"decoder", "rmle", "gan"}
    assert "none" not in set(static.defense)


def test_running_again_skips_everything_and_changes_nothing(smoke_run, dpbench):
    before = {path: path.stat().st_mtime_ns for path in (smoke_run / "records").iterdir()}
    board = (smoke_run / "board.csv").read_bytes()
    outcome = dpbench("run", "smoke", "--device", "cpu", "--output", smoke_run)
    assert outcome.status == 0
    assert "0 of" in outcome.out
    assert before == {path: path.stat().st_mtime_ns for path in (smoke_run / "records").iterdir()}
    assert (smoke_run / "board.csv").read_bytes() == board


def test_running_again_needs_no_torch_and_shows_the_same(smoke_run, cache):
    command = [sys.executable, "-X", "importtime", "-m", "dpbench"]
    command += ["run", "smoke", "--device", "cpu", "--output", str(smoke_run)]
    planned, shown = (
        subprocess.run(command, capture_output=True, text=True, env=environment(cache), check=True) for _ in range(2)
    )
    assert shown.stdout == planned.stdout
    imported = {line.rpartition("|")[2].strip() for line in shown.stderr.splitlines()}
    assert "dpbench.records.repeats" in imported
    assert not {"torch", "pandas", "numpy"} & imported


def test_the_board_is_derived_from_records_alone(smoke_run, dpbench, tmp_path):
    for ending in ("csv", "md", "html", "tex", "png"):
        assert dpbench("leaderboard", smoke_run, "--output", tmp_path / f"board.{ending}").status == 0
    assert (tmp_path / "board.csv").read_bytes() == (smoke_run / "board.csv").read_bytes()


def test_a_run_passes_the_gate_against_itself_and_fails_against_a_better_one(smoke_run, dpbench, tmp_path):
    baseline = smoke_run / "board.csv"
    assert dpbench("check", smoke_run, "--baseline", baseline).status == 0
    better = pd.read_csv(baseline)
    better[["ssim", "ssim_low", "ssim_high"]] -= 0.3
    better.to_csv(tmp_path / "better.csv", index=False)
    outcome = dpbench("check", smoke_run, "--baseline", tmp_path / "better.csv", "--junit", tmp_path / "junit.xml")
    assert outcome.status == 1
    assert "<failure" in (tmp_path / "junit.xml").read_text()


def test_two_runs_are_compared_image_by_image_and_claims_stay_apart(smoke_run, dpbench, tmp_path):
    assert dpbench("check", smoke_run, "--baseline", smoke_run).status == 0
    board = tmp_path / "board.csv"
    assert dpbench("leaderboard", smoke_run, "--claimed", smoke_run, "--output", board).status == 0
    rows = pd.read_csv(board)
    assert rows["origin"].value_counts().to_dict() == {"measured": len(rows) // 2, "claimed": len(rows) // 2}
    assert dpbench("check", board, "--baseline", smoke_run / "board.csv").status == 0  # claims do not count


def test_every_figure_of_the_board_has_its_interval(smoke_run):
    rows = pd.read_csv(smoke_run / "board.csv")
    worst = rows[(rows["attack"] == "worst-case") & (rows["threat_model"] == "weights")]
    assert set(worst["ensemble"]) == {"ensemble-v1.1"}
    for figure in ("accuracy", "ssim", "psnr_db", "lpips", "mse", "reid_top1", "label_read", "leakage"):
        assert (worst[f"{figure}_low"] <= worst[figure]).all()
        assert (worst[figure] <= worst[f"{figure}_high"]).all()


def test_same_suite_and_seed_give_equal_figures_alone_or_in_any_order(tiny, tmp_path, dpbench, monkeypatch):
    def fresh(output, *arguments):
        monkeypatch.setenv("DPBENCH_CACHE", str(tmp_path / f"cache-{output}"))
        assert dpbench("run", tiny, "--device", "cpu", "--output", tmp_path / output, *arguments).status == 0
        return figures(tmp_path / output)

    whole = fresh("whole")
    part = fresh("part", "--only", "gaussian*rmle")
    assert 0 < len(part) < len(whole)
    assert part.items() <= whole.items()
    tiny.write_text(suite(reversed(DEFENSES)))
    assert fresh("reordered") == whole  # and so is the same suite once more
    other = api.plan(str(tiny), seed=1, output=tmp_path / "seed")
    assert {cell.id for cell in other.units}.isdisjoint(whole)


def test_a_killed_run_goes_on_where_it_was(tiny, tmp_path, cache, dpbench):
    output = tmp_path / "killed"
    command = [sys.executable, "-m", "dpbench", "run", str(tiny), "--device", "cpu", "--output", str(output)]
    process = subprocess.Popen(command, env=environment(cache), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    records = output / "records"
    deadline = time.monotonic() + 120
    while not (records.is_dir() and any(records.glob("[!.]*.json"))) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = {path.name: path.read_bytes() for path in records.glob("[!.]*.json")}
    assert kept
    assert dpbench("run", tiny, "--device", "cpu", "--output", output).status == 0
    assert all((records / name).read_bytes() == content for name, content in kept.items())
    assert len(list(store.CELLS.all(output))) == 5


def test_ctrl_c_keeps_what_is_done_and_says_so(tiny, tmp_path, dpbench, monkeypatch):
    calls = []
    original = driving.work

    def interrupted(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    monkeypatch.setattr(driving, "work", interrupted)
    outcome = dpbench("run", tiny, "--device", "cpu", "--output", tmp_path / "run")
    assert outcome.status == 130
    assert "run the same command again" in outcome.err
    assert len(list(store.CELLS.all(tmp_path / "run"))) == 2


def test_dry_run_prints_the_plan_and_writes_nothing(tiny, tmp_path, dpbench):
    outcome = dpbench("run", tiny, "--output", tmp_path / "run", "--dry-run")
    assert outcome.status == 0
    assert "resnet10t layer1 | gaussian std=0.5 | rmle steps=5 " in outcome.out
    assert " decoder_steps=8 decoder_width=16 decoder_blocks=1 | static | seed 0" in outcome.out
    assert "5 cells, 5 to run" in outcome.out
    larger = dpbench("run", tiny, "--output", tmp_path / "run", "--dry-run", "--budget", "large")
    assert "| rmle steps=20 " in larger.out
    assert " decoder_steps=16 decoder_width=24 " in larger.out
    assert "| weights large | seed 0" in larger.out
    assert not (tmp_path / "run").exists()


def test_show_lists_and_writes_pictures(smoke_run, dpbench, tmp_path):
    listed = dpbench("show", smoke_run)
    assert listed.status == 0
    assert len(listed.out.splitlines()) == len(list(store.CELLS.all(smoke_run)))
    written = dpbench("show", smoke_run, "--cell", "dpm*decoder*query small", "--output", tmp_path / "one.png")
    assert written.status == 0
    assert (tmp_path / "one.png").read_bytes()[:4] == b"\x89PNG"
    assert dpbench("show", smoke_run, "--cell", "no such thing").status == 2
    one_of_two = ("--cell", "dpm*decoder*query small", "--cell", "no such thing")
    refused(
        dpbench("show", smoke_run, *one_of_two, "--output", tmp_path / "two.png"), "'no such thing'", "lists them all"
    )
    assert not (tmp_path / "two.png").exists()
    assert dpbench("show", smoke_run, "--open").status == 2
    both = ["--cell", "none*decoder*query small", "--cell", "dpm*decoder*c small", "--cell", "dpm*decoder*y small"]
    assert dpbench("show", smoke_run, *both, "--output", tmp_path / "compared.png").status == 0
    with Image.open(tmp_path / "compared.png") as compared:
        assert compared.height > 4 * 96  # victims, undefended, dpm under two threat models


@pytest.mark.parametrize("what", ["attacks", "defenses", "datasets", "suites"])
def test_list_says_what_there_is_for_people_and_programs(dpbench, what):
    shown = dpbench("list", what)
    entries = json.loads(dpbench("list", what, "--json").out)
    assert shown.status == 0
    assert len(entries) >= 3
    assert all(entry["name"] in shown.out and entry["about"] for entry in entries)


def test_list_backbones_shows_split_points(dpbench):
    entries = json.loads(dpbench("list", "backbones", "resnet10*", "--json").out)
    assert {"name": "resnet10t", "split_points": ["act1", "layer1", "layer2", "layer3", "layer4"]} in entries
    assert "resnet10t" in dpbench("list", "backbones").out
    assert dpbench("list", "backbones", "resnot99").status == 2
    assert "did you mean 'attacks'" in dpbench("list", "atacks").err


def test_from_python(tiny, tmp_path, cache):
    board = package.run(str(tiny), device="cpu", output=tmp_path / "run")
    assert {"accuracy", "ssim", "leakage"} <= set(board.columns)
    per_victim = package.load_records(tmp_path / "run")
    assert len(per_victim) == 5 * 4
    assert per_victim["ssim"].between(-1, 1).all()


def test_newest_record_wins_where_a_cell_was_measured_by_newer_code(tiny, tmp_path):
    package.run(str(tiny), device="cpu", output=tmp_path / "run", only="mean-image")
    record = next(iter(store.CELLS.all(tmp_path / "run")))
    attack = record.cell.attack.model_copy(update={"source": "v0"})
    cell = record.cell.model_copy(update={"attack": attack})
    old = record.model_copy(update={"cell": cell, "id": cell.id, "created": "2000-01-01T00:00:00+00:00"})
    store.CELLS.write(tmp_path / "run", old)
    assert len(list(store.CELLS.all(tmp_path / "run"))) == 2
    assert old.id not in {record.id for record in store.newest(store.CELLS.all(tmp_path / "run"))}


def test_folders_move_without_losing_finished_cells(tiny, tmp_path, image_folder):
    first = api.plan(str(tiny), data=str(image_folder), output=tmp_path / "run")
    moved = tmp_path / "moved"
    shutil.copytree(image_folder, moved)
    second = api.plan(str(tiny), data=str(moved), output=tmp_path / "run")
    assert [cell.id for cell in first.units] == [cell.id for cell in second.units]
    with pytest.raises(DpbenchError, match="there is no"):
        api.plan(str(tiny), data=str(tmp_path / "nowhere"), output=tmp_path / "run")


def test_several_releases_of_each_victim(tiny, tmp_path):
    tiny.write_text(suite(releases=3))
    board = package.run(str(tiny), device="cpu", output=tmp_path / "run", only="rmle")
    records = list(store.CELLS.all(tmp_path / "run"))
    assert {record.status for record in records} == {"ok"}
    assert {record.cell.releases for record in records} == {3}
    assert set(board["releases"]) == {3}
    assert all("releases_3" in record.id for record in records)


def test_a_finished_run_is_verified(smoke_run, dpbench):
    outcome = dpbench("verify", smoke_run)
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.startswith("verified: nothing contradicts itself in ")
