"""What a suite is about: named in the suite, carried through records into board, table, pictures and the gate."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from parsing import load_suite, parse_suite
from record_factory import make_grid, make_record
from rich.console import Console

from dpbench.board.columns import COLUMNS, OPTIONAL_COLUMNS, WORST_CASE, headline_of
from dpbench.board.files import read_board, write_board
from dpbench.board.leaderboard import build_board
from dpbench.errors import DpbenchError
from dpbench.gate.compare import compare
from dpbench.gate.findings import Tolerance
from dpbench.records.pictures import Pixels, reconstructions_path
from dpbench.records.record import Record
from dpbench.reporting import overview
from dpbench.reporting.plots.tradeoff_plot import write_tradeoff
from dpbench.reporting.table import print_table
from dpbench.suite.grid import plan

NOBODY, EVERYONE = [29] * 4, [0] * 4


def faces(name: str, identity_rank: list[int], **more: object) -> Record:
    return make_record(defense=name, identity_rank=identity_rank, reid_rank=0, headline="identity_top1", **more)  # type: ignore[arg-type]


def records() -> list[Record]:
    """By SSIM and leakage `seen` hides more than `hidden`, by identity less."""
    return [
        make_record(attack="mean-image", ssim=0.1, identity_rank=NOBODY, reid_rank=9, headline="identity_top1"),
        faces("none", EVERYONE, ssim=0.9),
        faces("seen", [0, 0, 0, 29], ssim=0.3),
        faces("hidden", NOBODY, ssim=0.4),
    ]


def test_identity_is_a_figure_with_its_interval_and_its_chance() -> None:
    board = build_board([*records(), faces("seen", [29, 0, 0, 0], attack="rmle", ssim=0.2)])
    by_attack = board[board["defense"] == "seen"].set_index("attack")
    assert by_attack.loc["decoder", "identity_top1"] == 0.75
    assert by_attack.loc[WORST_CASE, "identity_top1"] == 1  # per image the best
    assert by_attack.loc["decoder", "identity_top1_low"] < 0.75 < by_attack.loc["decoder", "identity_top1_high"]
    assert by_attack.loc["decoder", "identity_chance"] == pytest.approx(1 / 30, abs=1e-4)
    assert headline_of(board) == "identity_top1"


def test_the_headline_orders_the_board_and_decides_what_is_tied() -> None:
    def order(found: list[Record]) -> list[str]:
        board = build_board(found)
        return list(dict.fromkeys(board[board["attack"] == WORST_CASE]["defense"]))

    assert order(records()) == ["hidden", "seen", "none"]
    assert order([record.model_copy(update={"headline": "leakage"}) for record in records()]) == [
        "seen",
        "hidden",
        "none",
    ]
    board = build_board(records()).set_index(["defense", "attack"])
    # four victims do not tell 75% from 100%, nor from none at all
    assert board.loc[("seen", WORST_CASE), "tied"] == "hidden; none"
    many = [
        make_record(defense=name, ssim=ssim, identity_rank=ranks, reid_rank=0, headline="identity_top1", victims=16)
        for name, ssim, ranks in (("none", 0.9, 0), ("seen", 0.3, [0] * 12 + [29] * 4), ("hidden", 0.4, 29))
    ]
    board = build_board(many).set_index(["defense", "attack"])
    assert board.loc[("hidden", WORST_CASE), "tied"] == ""


def test_boards_that_ask_nothing_of_it_keep_their_columns(tmp_path: Path) -> None:
    board = build_board(make_grid(4))
    on_a_scale = {"leakage_metrics", "leakage_images"}
    assert set(board.columns) == {*COLUMNS, *on_a_scale}
    assert tuple(build_board([make_record()]).columns) == COLUMNS
    asked = build_board(records())
    asked_for = ("accuracy_top5", "leakage_at_", "hypervolume", "on_", "server")
    asked_for = (*asked_for, "link_", "client_", "added_", "coded_", "information_bits")
    absent = {column for column in OPTIONAL_COLUMNS if column.startswith(asked_for)} | {"metrics"}
    assert set(asked.columns) == {*COLUMNS, *OPTIONAL_COLUMNS} - absent
    for name, table in (("without.csv", board), ("with.csv", asked)):
        write_board(table, tmp_path / name)
        again = read_board(tmp_path / name)
        write_board(again, tmp_path / f"again-{name}")
        assert (tmp_path / name).read_bytes() == (tmp_path / f"again-{name}").read_bytes()
        assert headline_of(again) == headline_of(table)
    write_board(asked, tmp_path / "with.md")
    assert "identity_top1" in (tmp_path / "with.md").read_text()


def test_the_gate_closes_when_more_people_are_identified() -> None:
    before = build_board([faces("seen", [0, 29, 29, 29], ssim=0.3)] * 1)
    after = build_board([faces("seen", [0, 0, 0, 0], ssim=0.3)])
    found = compare(after, before, tolerance=Tolerance()).findings
    assert {finding.kind for finding in found if "identity_top1" in finding.message} == {"leaks more"}
    assert compare(after, before, tolerance=Tolerance(identity_top1=1)).findings == []
    without = build_board([make_record(defense="seen", ssim=0.3, reid_rank=0)])
    lacking = compare(without, before, tolerance=Tolerance()).findings
    assert {finding.kind for finding in lacking} == {"missing figure"}
    assert compare(before, without, tolerance=Tolerance()).findings == []


def test_the_table_leads_with_it() -> None:
    console = Console(file=io.StringIO(), width=120)
    print_table(build_board(records()), console)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    rows = {line.split()[0]: line.split() for line in lines if line.split()}
    assert rows["hidden"][3] == "0.00"
    assert rows["none"][3] == "1.00≈"


def test_the_picture_shows_the_attack_that_identifies_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [*records(), faces("seen", NOBODY, attack="rmle", ssim=0.8)]
    for record in found:
        path = reconstructions_path(tmp_path, record.id)
        path.parent.mkdir(exist_ok=True)
        images = torch.zeros(4, 3, 16, 16, dtype=torch.uint8)
        safetensors.torch.save_file({"victims": images, "reconstructions": images.clone()}, path)
    rows: list[tuple[str, str, Pixels]] = []
    monkeypatch.setattr(overview, "write_rows", lambda path, given, title: rows.extend(given))
    overview.write_overview(tmp_path, build_board(found), tmp_path / "overview.png")
    notes = {name: note for name, note, _ in rows}
    assert notes["seen"].startswith("decoder: SSIM 0.30, identified 75%")


def test_the_plot_shows_it(tmp_path: Path) -> None:
    write_tradeoff(build_board(records()), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5000


FACES = """
name = "tiny"
headline = "identity_top1"
victims = 4
[dataset]
name = "somewhere"
private = 20
auxiliary = 20
test = 8
auxiliary_classes = 3
[judge]
name = "resnet14t"
epochs = 60
[[backbones]]
name = "resnet10t"
split_points = ["layer1"]
[[defenses]]
name = "none"
[[attacks]]
name = "decoder"
"""


def planned(text: str) -> list[str]:
    suite = parse_suite(text, origin="tiny.toml")
    return [cell.id for cell in plan(suite, data_fingerprint="x", split_names=[["layer1"]])]


def test_a_suite_names_headline_and_judge() -> None:
    assert load_suite("quick").headline == "leakage"
    assert load_suite("faces").headline == "identity_top1"
    assert planned(FACES.replace('headline = "identity_top1"', 'headline = "reid_top1"')) == planned(FACES)
    assert planned(FACES.replace("epochs = 60", "epochs = 50")) != planned(FACES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (FACES.replace("identity_top1", "privacy"), "headline: input should be .*'privacy'"),
        (FACES.replace("auxiliary_classes = 3", ""), "has headline = 'identity_top1'.* set auxiliary_classes"),
        (
            FACES.replace('"resnet14t"', '"resnet10t.c3_in1k"'),
            r"\[judge\] is a resnet10t, as is the model",
        ),
        (FACES.replace("epochs = 60", "epoch = 60"), "'epoch'; did you mean 'epochs'"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(DpbenchError, match=message) as caught:
        planned(text)
    assert "\n" not in str(caught.value)


def test_ranks_are_finite_numbers() -> None:
    assert np.isfinite(build_board(records())["identity_top1"]).all()
