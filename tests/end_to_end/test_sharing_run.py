"""A run of the protocol `sharing` as a user walks it."""

import json
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from command_line import refused
from PIL import Image
from shared_suite import TINY, of_kind, quiet

import dpbench as dpbench_package
from dpbench.api import plan
from dpbench.cli import app as cli
from dpbench.errors import DpbenchError
from dpbench.metrics.grading import grade
from dpbench.protocols.sharing.benefit import Benefit
from dpbench.protocols.sharing.pipeline import SharedPipeline
from dpbench.protocols.sharing.records import SHARED
from dpbench.protocols.sharing.units import Attacked, Training, Transferred
from dpbench.records import store

BOARDS = Path(__file__).resolve().parents[2] / "leaderboards"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("suites") / "tiny-sharing.toml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="session")
def run(tiny, tmp_path_factory, cache):
    """The run directory of the finished suite."""
    output = tmp_path_factory.mktemp("runs") / "sharing"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DPBENCH_CACHE", str(cache))
        arguments = ["dpbench", "run", str(tiny), "--device", "cpu", "--output", str(output)]
        patch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as stopped:
            cli.main()
    assert not stopped.value.code
    return output


@pytest.fixture
def units(tiny, run):
    return plan(str(tiny), output=run).units


@pytest.fixture(scope="session")
def pipeline(run, cache):
    return SharedPipeline(torch.device("cpu"), cache)


def figures(run_dir):
    drop = {"seconds", "created", "client_ms"}
    return {record.id: record.model_dump_json(exclude=drop) for record in SHARED.all(run_dir)}


def test_a_row_of_the_board_comes_out_again(run, tmp_path, dpbench):
    board = pd.read_csv(run / "board.csv")
    (row,) = board.index[(board["condition"] == "defended-features") & (board["defense"] == "gaussian")]
    arguments = ("reproduce", run, "--row", row + 1, "--device", "cpu", "--output", tmp_path / "again")
    outcome = dpbench(*arguments)
    assert outcome.status == 0, outcome
    assert "defended-features gaussian" in outcome.out
    assert " gain " in outcome.out
    assert "outside" not in outcome.out
    assert "0 of 4 parts to run" in dpbench(*arguments).out


def test_a_run_measures_every_unit_and_says_what_it_wrote(run, units):
    records = {record.id: record for record in SHARED.all(run)}
    assert records.keys() == {unit.id for unit in units}
    assert len(units) == 11 - 1 + 8 + 12  # trainings, attacks, transfers
    for name in ("board.csv", "benefit.png", "transfer.csv", "transfer.png"):
        assert (run / name).is_file()
    for record in records.values():
        assert record.status == "ok"
        assert record.environment["versions"]["torch"]
        if isinstance(record.unit, Training):
            assert len(record.trained.correct) == len(record.trained.public_correct) == 40
            shared = {"own": 0, "own-longer": 0, "sender-tail": 0, "soft-labels": 64}.get(record.unit.condition, 48)
            assert (record.trained.own_images, record.trained.shared_images) == (24, shared)
            assert (record.trained.equivalence.keys() == {"hospital"}) == (record.unit.condition == "defended-features")
        else:
            assert store.picture_path(run, record.id).is_file()
            assert set(record.fidelity) == {"mse", "psnr_db", "ssim", "lpips"}
            assert all(len(values) == 6 for values in record.fidelity.values())
            assert record.recognition.gallery == 48  # all that the sender shared
            assert record.recognition.judge != "resnet10t"
            assert record.cost.multiply_adds > 0
            assert 0 < record.cost.coded_bits <= record.release_bits == 4096 * 32
            asked = getattr(record.unit, "knowledge", "") in ("public", "query") and not record.floor
            assert (record.link is not None) == asked


def test_the_board_has_a_row_for_each_condition_and_the_floor(run):
    board = pd.read_csv(run / "board.csv", keep_default_na=False)
    named = list(zip(board["condition"], board["defense"], strict=True))
    assert sorted(named) == sorted(
        [
            *(("own", ""), ("own-longer", ""), ("clean-images", ""), ("clean-features", ""), ("floor", "")),
            *(("sender-tail", ""), ("soft-labels", "")),
            *(("defended-features", "gaussian"), ("defended-features", "dpm")),
            *(("shuffled-labels", "dpm"), ("equal-noise", "dpm")),
        ]
    )
    assert set(board["status"]) == {"ok"}
    defended = board[board["condition"] == "defended-features"].set_index("defense")
    assert float(defended.loc["gaussian", "link_chance"]) == pytest.approx(1 / (48 + 24 + 64), abs=1e-6)
    assert int(float(defended.loc["gaussian", "added_multiply_adds"])) == 0
    assert int(float(defended.loc["dpm", "added_multiply_adds"])) > 0
    matrix = pd.read_csv(run / "transfer.csv")
    assert len(matrix) == 12
    assert {"0+1", "0+2", "1+2"} < set(matrix["prepared_on"])


def test_where_prepared_and_judged_on_the_shared_fit_a_transfer_is_the_tier_query(run):
    records = list(SHARED.all(run))
    queried = of_kind(Attacked, [r.unit for r in records], knowledge="query")
    tier = next(r for r in records if r.unit in queried and r.unit.defense.name == "dpm")
    same = next(
        r for r in records if isinstance(r.unit, Transferred) and (r.unit.prepared_on, r.unit.judged_on) == ([0], 0)
    )
    assert tier.fidelity == same.fidelity
    assert tier.victims == same.victims


def test_running_again_does_nothing_and_changes_no_byte(run, tiny, dpbench):
    before = {path: path.stat().st_mtime_ns for path in (run / "sharing").iterdir()}
    boards = {name: (run / name).read_bytes() for name in ("board.csv", "transfer.csv")}
    outcome = dpbench("run", tiny, "--device", "cpu", "--output", run)
    assert outcome.status == 0, outcome.err
    assert "0 of 30 parts to run" in outcome.out
    assert before == {path: path.stat().st_mtime_ns for path in (run / "sharing").iterdir()}
    assert boards == {name: (run / name).read_bytes() for name in boards}


def test_what_is_missing_or_cut_short_is_redone_alone_with_the_same_figures(run, tiny, units, dpbench, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    expected = figures(run)
    training = of_kind(Training, units, condition="equal-noise")[0]
    attack = next(u for u in of_kind(Attacked, units, knowledge="own") if u.defense.name == "dpm")
    mixed = of_kind(Transferred, units, prepared_on=[0, 2])[0]
    SHARED.path(copied, training.id).unlink()
    SHARED.path(copied, mixed.id).unlink()
    path = SHARED.path(copied, attack.id)
    path.write_text(path.read_text()[:300])
    refused(dpbench("leaderboard", copied, "--output", tmp_path / "x.csv"), "cut short", "redoes that part alone")
    outcome = dpbench("run", tiny, "--device", "cpu", "--output", copied)
    assert outcome.status == 0, outcome.err
    assert "3 of 30 parts to run" in outcome.out
    assert figures(copied) == expected
    boards = [pd.read_csv(one / "board.csv").drop(columns="client_ms") for one in (copied, run)]
    pd.testing.assert_frame_equal(*boards)


def test_a_training_by_an_older_recipe_is_redone(run, tiny, units, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(run / "sharing", copied / "sharing")
    path = SHARED.path(copied, of_kind(Training, units, condition="own")[0].id)
    stored = json.loads(path.read_text())
    path.write_text(json.dumps(stored | {"refinement_version": stored["refinement_version"] - 1}))
    assert len(plan(str(tiny), output=copied).finished) == 29


def hashes_of(pipeline, owner):
    return set(pipeline.world._hashes(owner, quiet))


def test_the_attacker_never_has_an_image_of_the_sender(run, units, pipeline):
    unit = of_kind(Attacked, units)[0]
    pipeline.world.enter(unit.world)
    cell = unit.cell()
    victims = pipeline.world.parts(cell, quiet).test
    auxiliary = pipeline.world.auxiliary(cell, quiet)
    assert len(auxiliary) == 24 + 64  # its own, and the public ones
    distances = torch.cdist(auxiliary.images.flatten(1), victims.images.flatten(1))
    assert distances.min() > 0.1
    everything = pipeline.world.divided(quiet).parts
    owned = [hashes_of(pipeline, owner) for owner in ("clinic", "hospital")]
    assert [len(one) for one in owned] == [24, 48]
    groups = [*owned, set(everything.hashes["auxiliary"]), set(everything.hashes["test"])]
    assert len(set().union(*groups)) == sum(len(group) for group in groups)
    for record in SHARED.all(run):
        if isinstance(record.unit, Attacked | Transferred):
            assert set(record.victims) < owned[1]
    unseen = pipeline.world.spec.model_copy(update={"public_images": False})
    pipeline.world.enter(unseen)
    assert len(pipeline.world.auxiliary(unseen.cell("hospital", "clinic"), quiet)) == 24


def test_the_pictures_show_the_victims(run, units, pipeline):
    unit = of_kind(Attacked, units)[0]
    with Image.open(store.picture_path(run, unit.id)) as picture:
        assert picture.height > 2 * 32
    pipeline.world.enter(unit.world)
    victims = pipeline.world.images_of("hospital", quiet).images[:6]
    assert grade(victims, victims, 6)[0]["ssim"] == pytest.approx([1.0] * 6)


def test_dry_run_prints_the_plan_and_writes_nothing(tiny, run, dpbench, tmp_path):
    outcome = dpbench("run", tiny, "--output", tmp_path / "run", "--dry-run")
    assert outcome.status == 0
    assert "train | clinic | defended-features | gaussian std=1.0 | seed 0" in outcome.out
    assert "transfer | hospital | dpm strength=1.0 epochs=1 | 1+2 to 0 | decoder steps=" in outcome.out
    assert "30 parts, 30 to run" in outcome.out
    assert not (tmp_path / "run").exists()
    assert "30 parts, 0 to run" in dpbench("run", tiny, "--output", run, "--dry-run").out
    other = dpbench("run", tiny, "--output", run, "--dry-run", "--seed", "3", "--defense", "laplace")
    assert "defended-features | laplace" in other.out
    assert "finished" not in other.out


def test_only_runs_a_part_of_it(tiny, dpbench, tmp_path, run):
    output = tmp_path / "part"
    outcome = dpbench("run", tiny, "--device", "cpu", "--output", output, "--only", "train*own | ")
    assert outcome.status == 0, outcome.err
    assert "1 of 1 parts to run" in outcome.out
    assert not (output / "benefit.png").exists()
    assert not (output / "transfer.csv").exists()
    part = figures(output)
    assert len(part) == 1
    assert part.items() <= figures(run).items()
    refused(dpbench("leaderboard", output, "--output", tmp_path / "x.png"), "without --only")
    refused(dpbench("leaderboard", output, "--output", tmp_path / "x.png", "--plot", "transfer"), "[transfer]")
    attacks = tmp_path / "attacks"
    outcome = dpbench("run", tiny, "--device", "cpu", "--output", attacks, "--only", "mean-image")
    assert outcome.status == 0, outcome.err
    assert "floor: SSIM" in outcome.out


def test_a_unit_that_fails_is_a_record_and_the_others_go_on(tiny, run, units, dpbench, tmp_path, monkeypatch):
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    own = of_kind(Training, units, condition="own")[0]
    longer = of_kind(Training, units, condition="own-longer")[0]
    for unit in (own, longer):
        SHARED.path(copied, unit.id).unlink()
    original = Benefit.run

    def breaks(self, unit, *arguments):
        if unit.condition == "own":
            raise ValueError("on purpose")
        return original(self, unit, *arguments)

    monkeypatch.setattr(Benefit, "run", breaks)
    outcome = dpbench("run", tiny, "--device", "cpu", "--output", copied)
    assert outcome.status == 1
    assert "on purpose" in outcome.out
    records = {record.id: record for record in SHARED.all(copied)}
    assert records[own.id].status == "failed"
    assert records[longer.id].status == "ok"
    board = pd.read_csv(copied / "board.csv").set_index("condition")
    assert board.loc["own", "status"] == "failed"
    assert "on purpose" in board.loc["own", "error"]
    assert board["gain"].isna().all()


def test_what_users_get_wrong_is_refused_in_one_line(tiny, run, dpbench, tmp_path):
    output = tmp_path / "run"
    refused(dpbench("run", tiny, "--output", output, "--only", "nothing like it"), "matches no part")
    refused(dpbench("run", tiny, "--output", output, "--shifted", "spectra"), "'sharing'", "leave it out")
    refused(dpbench("run", tiny, "--output", output, "--budget", "huge"), "budget")
    refused(dpbench("run", tiny, "--output", output, "--seed", "-1"), "--seed")
    refused(dpbench("run", tiny, "--output", output, "--attack", "decodr"), "did you mean 'decoder'")
    refused(dpbench("run", tiny, "--output", output, "--data", tmp_path / "nowhere"), "nowhere")
    refused(dpbench("run", tiny, "--output", output, "--device", "tpu"), "expected one of auto, cpu, cuda, mps")
    assert not output.exists()
    other = tmp_path / "suite.toml"
    for old, new, words in (
        ("resnet10t", "resnet10x", ["unknown backbone", "did you mean"]),
        ("layer1", "layer11", ["did you mean 'layer1"]),
        ("images = 24", "images = 0", ["entity 'clinic' has no data"]),
    ):
        other.write_text(TINY.replace(old, new))
        refused(dpbench("run", other, "--output", output), *words)


def test_boards_are_derived_from_records_alone(run, dpbench, tmp_path):
    for name in ("x.csv", "x.md", "x.html", "x.png", "x.svg", "x.tex"):
        outcome = dpbench("leaderboard", run, "--output", tmp_path / name)
        assert outcome.status == 0, outcome.err
        assert (tmp_path / name).stat().st_size > 100
    assert (tmp_path / "x.csv").read_bytes() == (run / "board.csv").read_bytes()
    for name in ("t.csv", "t.md", "t.png"):
        assert dpbench("leaderboard", run, "--plot", "transfer", "--output", tmp_path / name).status == 0
    assert (tmp_path / "t.csv").read_bytes() == (run / "transfer.csv").read_bytes()
    for name in ("x.jpg", "x"):
        refused(dpbench("leaderboard", run, "--output", tmp_path / name), "ends in .csv, .md or .tex")
        assert not (tmp_path / name).exists()
    refused(dpbench("leaderboard", run, "--plot", "benfit", "--output", tmp_path / "y.png"), "did you mean 'benefit'")


def test_the_gate_compares_runs_and_boards(run, dpbench, tmp_path):
    same = dpbench("check", run, "--baseline", run / "board.csv")
    assert same.status == 0, same.out + same.err
    accepted = pd.read_csv(run / "board.csv")
    attacked = accepted["ssim"].notna() & (accepted["condition"] != "floor")
    accepted.loc[attacked, ["ssim", "ssim_low", "ssim_high"]] -= 0.3
    accepted.loc[attacked, ["leakage", "leakage_low", "leakage_high"]] = 0.0
    accepted.to_csv(tmp_path / "accepted.csv", index=False)
    worse = dpbench("check", run, "--baseline", tmp_path / "accepted.csv")
    assert worse.status == 1
    assert "leaks more" in worse.out
    assert "trains on" in worse.out
    of_another = dpbench("check", run, "--baseline", BOARDS / "quick.csv")
    refused(of_another, "two protocols")


def test_figures_per_victim_are_read_from_python(run):
    figures = dpbench_package.load_records(run)
    records = [record for record in SHARED.all(run) if record.victims]
    assert len(figures) == sum(len(record.victims) for record in records)
    first = figures[figures["id"] == records[0].id]
    assert first["ssim"].tolist() == records[0].fidelity["ssim"]
    assert set(figures["defense"]) == {record.named.defense for record in records}


def test_features_of_an_entity_are_exported_and_taken(tiny, dpbench, tmp_path):
    path = tmp_path / "features.safetensors"
    arguments = ["share", "export", tiny, "--output", path, "--device", "cpu"]
    refused(dpbench(*arguments, "--only", "nothing like it"), "matches 0 settings", "hospital | dpm")
    outcome = dpbench(*arguments, "--only", "hospital | dpm*")
    assert outcome.status == 0, outcome.err
    taken = dpbench("share", "import", path, tiny, "--device", "cpu")
    assert taken.status == 0, taken.err
    assert "dpm" in taken.out


def test_claimed_rows_have_no_place_in_these_boards(run, dpbench, tmp_path):
    outcome = dpbench("leaderboard", run, "--claimed", run, "--output", tmp_path / "x.csv")
    refused(outcome, "--claimed", "leave it out")
    assert not (tmp_path / "x.csv").exists()


def test_runs_of_both_protocols_do_not_mix(run, dpbench, tmp_path):
    plain = tmp_path / "plain"
    (plain / "records").mkdir(parents=True)
    for directories in ((run, plain), (plain, run)):
        refused(dpbench("leaderboard", *directories, "--output", tmp_path / "x.csv"), "give one kind at a time")
    claims = dpbench("leaderboard", run, "--claimed", plain, "--output", tmp_path / "x.csv")
    refused(claims, "--claimed")
    assert not (tmp_path / "x.csv").exists()


def test_two_runs_of_the_same_units_are_one_board(run, dpbench, tmp_path):
    shutil.copytree(run / "sharing", tmp_path / "again" / "sharing")
    assert dpbench("leaderboard", run, tmp_path / "again", "--output", tmp_path / "x.csv").status == 0
    assert (tmp_path / "x.csv").read_bytes() == (run / "board.csv").read_bytes()


def test_list_shows_suites_of_both_protocols(dpbench):
    entries = {entry["name"]: entry for entry in json.loads(dpbench("list", "suites", "--json").out)}
    assert {"smoke", "sharing"} <= entries.keys()
    shown = dpbench("list", "suites").out
    assert "sharing" in shown
    assert "smoke" in shown


def test_show_lists_the_pictures_of_a_run_and_writes_one(run, dpbench, tmp_path):
    outcome = dpbench("show", run)
    assert outcome.status == 0, outcome.err
    listed = outcome.out.splitlines()
    assert len(listed) == len(list((run / "pictures").glob("*.png")))
    assert all("  attack | " in line or "  transfer | " in line for line in listed)
    one = tmp_path / "one.png"
    assert dpbench("show", run, "--cell", "none*mean-image", "--output", one).status == 0
    assert one.read_bytes() in [path.read_bytes() for path in (run / "pictures").glob("*.png")]
    several = tmp_path / "several.png"
    outcome = dpbench("show", run, "--cell", "none*decoder", "--cell", "dpm*decoder*query", "--output", several)
    assert outcome.status == 0, outcome.err
    with Image.open(several) as picture:
        assert picture.size[1] > 3 * 32
    refused(dpbench("show", run, "--cell", "nothing", "--output", tmp_path / "x.png"), "lists them all")
    assert not (tmp_path / "x.png").exists()


def test_from_python_the_board_is_the_same(run, tiny, tmp_path):
    shutil.copytree(run / "sharing", tmp_path / "run" / "sharing")
    board = dpbench_package.run(str(tiny), output=tmp_path / "run", device="cpu")
    stored = pd.read_csv(run / "board.csv")
    assert board["condition"].tolist() == stored["condition"].tolist()
    assert board["leakage"].tolist() == pytest.approx(stored["leakage"].tolist(), nan_ok=True)
    with pytest.raises(DpbenchError, match="partner with images of its own"):
        dpbench_package.run(str(tiny), shifted="spectra")
