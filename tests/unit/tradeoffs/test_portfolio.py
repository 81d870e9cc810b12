"""Which attacks are worth running, on made-up records whose answers are known."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from record_factory import make_record
from rich.console import Console

from dpbench.errors import DpbenchError
from dpbench.metrics.intervals import mean_interval
from dpbench.records.record import Record
from dpbench.records.store import CELLS
from dpbench.tradeoffs.portfolio import Contest, nearest_pair, portfolio
from dpbench.tradeoffs.portfolio_table import print_portfolio, write_portfolio

VICTIMS = 8
NOISE = [0.01, -0.01] * (VICTIMS // 2)


def near(mean: float) -> list[float]:
    return [mean + noise for noise in NOISE]


def record(attack: str, ssim: list[float] | float, **more: Any) -> Record:
    return make_record(attack=attack, ssim=ssim, victims=VICTIMS, **more)


def records() -> list[Record]:
    """`rmle` wins on the undefended model, `decoder` on noise by a little, `fora` sees releases alone."""
    floor = record("mean-image", 0.1, threat_model="observe")
    undefended = [
        record("decoder", near(0.6), threat_model="query", seconds=8),
        record("rmle", near(0.9), seconds=16),
        record("gan", near(0.5), seconds=80),
        record("fora", near(0.3), threat_model="observe"),
    ]
    noisy = [
        record("decoder", near(0.5), threat_model="query", seconds=24, defense="gaussian"),
        record("rmle", near(0.4), seconds=16, defense="gaussian"),
        record("gan", near(0.5)[::-1], seconds=80, defense="gaussian"),
        record("fora", near(0.05), threat_model="observe", defense="gaussian"),
    ]
    return [floor, *undefended, *noisy]


def rows(given: list[Record]) -> dict[str, dict[str, Any]]:
    table = portfolio(given).table
    return {row["attack"]: row for row in table.to_dict("records")}


def test_what_each_attack_is_worth():
    found = rows(records())
    # places 2 and 1.5, 1 and 3, 3 and 1.5, 4 and 4
    assert {attack: row["mean_rank"] for attack, row in found.items()} == {
        "decoder": 1.75,
        "rmle": 2.0,
        "gan": 2.25,
        "fora": 4.0,
    }
    assert list(found) == ["decoder", "rmle", "gan", "fora"]
    assert [found[attack]["needs"] for attack in ("rmle", "decoder", "fora")] == ["weights", "query", "observe"]
    assert found["rmle"]["alone"] == 1
    assert found["rmle"]["earns_on"] == "none"
    assert found["rmle"]["ssim"] == pytest.approx(0.65)
    # seconds of the attack over its 8 victims, mean over settings
    assert found["decoder"]["seconds_per_image"] == pytest.approx(2.0)


def test_the_gain_is_what_the_worst_case_of_the_others_would_lack():
    found = rows(records())
    # 0.3 above the decoder on the undefended model, nothing on noise
    assert found["rmle"]["gain"] == pytest.approx(0.15)
    assert found["rmle"]["gain_low"] <= found["rmle"]["gain"] <= found["rmle"]["gain_high"]
    # every other victim by 0.02, where the GAN is as good on the mean
    assert found["decoder"]["gain"] == pytest.approx(0.005)
    assert found["fora"]["gain"] == 0
    varied = list(np.linspace(0.5, 0.9, VICTIMS))
    one = rows([record("rmle", varied), record("gan", 0.6)])["rmle"]
    beyond = np.maximum(np.array(varied) - 0.6, 0)
    assert [one["gain"], one["gain_low"], one["gain_high"]] == pytest.approx(mean_interval(beyond))


def test_an_attack_competes_on_its_own_rung_with_those_who_are_granted_no_more():
    found = rows(records())
    assert found["decoder"]["alone"] == 0  # the GAN is as good where weights are granted
    assert found["decoder"]["earns_on"] == "none; gaussian"
    # below the mean image on noise: anyone can output that
    assert found["fora"]["earns_on"] == "none"
    assert found["gan"]["earns_on"] == ""


def test_by_chance_nobody_is_alone():
    up_and_down = [0.5 + 0.1 * (-1) ** place for place in range(VICTIMS)]
    found = rows([record("rmle", up_and_down), record("gan", 0.49)])
    assert found["rmle"]["alone"] == 0
    assert found["rmle"]["gain"] > 0
    alone = rows([record("rmle", 0.5), record("gan", 0.49)])
    assert alone["rmle"]["alone"] == 1


def test_a_single_victim_and_a_single_attack_tell_nothing():
    one = make_record(attack="rmle", ssim=0.9, victims=1), make_record(attack="gan", ssim=0.1, victims=1)
    assert rows(list(one))["rmle"]["alone"] == 0
    with pytest.raises(DpbenchError, match="two attacks or more finished"):
        portfolio([record("rmle", 0.9), record("gan", 0.1, defense="gaussian")])
    with pytest.raises(DpbenchError, match="two attacks or more finished"):
        portfolio([])


def test_which_two_to_run():
    pairs = {pair.rung: pair for pair in portfolio(records()).pairs}
    assert list(pairs) == ["observe", "query", "weights"]
    assert pairs["weights"].attacks in {("decoder", "rmle"), ("gan", "rmle")}
    assert pairs["weights"].missing == pytest.approx(0.005)
    assert pairs["observe"].attacks == ("fora",)
    # two of one kind are not the best two
    contest = Contest("none", "weights", ("a", "b"), {n: np.array(v) for n, v in SCORES.items()}, None)
    assert nearest_pair([contest]).attacks == ("first", "other")  # type: ignore[union-attr]
    assert nearest_pair([contest]).missing == pytest.approx(0.0)  # type: ignore[union-attr]


SCORES = {"first": [0.9, 0.1], "twin": [0.89, 0.1], "other": [0.0, 0.8]}


def test_an_attack_that_gives_the_images_of_another_is_no_rival_of_it():
    given = [
        record("decoder", near(0.6)),
        record("mixture", near(0.6)),
        record("reorder", near(0.6)),
        record("gan", 0.1),
    ]
    found = rows(given)
    assert [found[attack]["earns_on"] for attack in ("decoder", "mixture", "reorder")] == ["none", "", ""]
    assert [found[attack]["gain"] for attack in ("decoder", "mixture")] == [pytest.approx(0.5), 0]


def test_an_attack_may_earn_its_place_by_what_is_seen_alone():
    def judged(lpips: dict[str, float | None]) -> dict[str, dict[str, Any]]:
        ssim = {"rmle": 0.9, "decoder": 0.6, "flow": 0.5}
        return rows([record(attack, near(ssim[attack]), lpips=lpips[attack]) for attack in ssim])

    sharper = judged({"rmle": 0.3, "decoder": 0.4, "flow": 0.1})
    assert {attack: row["earns_on"] for attack, row in sharper.items()} == {
        "rmle": "none",
        "decoder": "",
        "flow": "none (LPIPS)",
    }
    assert (sharper["flow"]["alone"], sharper["flow"]["gain"], sharper["flow"]["lpips"]) == (1, 0, 0.1)
    assert judged({"rmle": 0.1, "decoder": 0.4, "flow": 0.3})["rmle"]["earns_on"] == "none"
    lacking = judged({"rmle": None, "decoder": 0.4, "flow": 0.1})
    assert lacking["flow"]["earns_on"] == ""
    assert np.isnan(lacking["flow"]["lpips"])


def test_an_attack_that_failed_is_missed_where_it_failed():
    failing = [one for one in records() if (one.cell.attack.name, one.cell.defense.name) != ("decoder", "gaussian")]
    failing.append(record("decoder", 0.5, threat_model="query", defense="gaussian", failed="out of memory"))
    found = rows(failing)
    assert found["decoder"]["settings"] == 1
    assert found["gan"]["earns_on"] == "gaussian"


def test_static_attackers_take_no_part_and_several_grants_are_one_attack():
    given = records()
    more = record("decoder", near(0.95), threat_model="static", defense="gaussian")
    assert portfolio([*given, more]).table.equals(portfolio(given).table)
    shifted = record("decoder", near(0.2), threat_model="query", auxiliary="shifted", defense="gaussian")
    assert rows([*given, shifted])["decoder"]["mean_rank"] == 1.75


def test_names_tell_variants_of_an_attack_and_places_apart():
    variants = [record("rmle", 0.9, attack_args={"steps": steps}) for steps in (1, 2)]
    assert set(rows(variants)) == {"rmle steps=1", "rmle steps=2"}
    added = [record("rmle", 0.9, attack_args={"steps": 1} | more) for more in ({}, {"grid": "wide"})]
    assert set(rows(added)) == {"rmle", "rmle grid=wide"}
    elsewhere = [record("unsplit", 0.3, attack_args={"at": split}, split_point=split) for split in ("layer1", "layer3")]
    others = [record("rmle", 0.9, split_point=split, seconds=1) for split in ("layer1", "layer3")]
    found = rows([*elsewhere, *others])
    assert set(found) == {"rmle", "unsplit"}
    assert found["rmle"]["earns_on"] == "none (layer1); none (layer3)"
    networks = [
        record(attack, ssim, backbone=backbone, split_point=split)
        for backbone, split in (("resnet10t", "layer1"), ("vit", "blocks.0"))
        for attack, ssim in (("rmle", 0.8), ("gan", 0.1))
    ]
    assert rows(networks)["rmle"]["earns_on"] == "none (resnet10t); none (vit)"
    strengths = [
        record(attack, ssim, defense="gaussian", defense_args={"std": std, "kind": "plain"})
        for std in (0.5, 1.0)
        for attack, ssim in (("rmle", 0.8), ("gan", 0.1))
    ]
    assert rows(strengths)["rmle"]["earns_on"] == "gaussian std=0.5; gaussian std=1.0"


def test_the_table_as_files_and_on_the_terminal(tmp_path: Path):
    found = portfolio(records())
    assert write_portfolio(found, tmp_path / "portfolio.csv") == 4
    again = pd.read_csv(tmp_path / "portfolio.csv")
    assert list(again.columns) == list(found.table.columns)
    assert list(again["attack"]) == list(found.table["attack"])
    write_portfolio(found, tmp_path / "portfolio.md")
    text = (tmp_path / "portfolio.md").read_text()
    assert "| rmle " in text
    assert "- granted observe: run fora; their worst case is 0.000 SSIM below that of all" in text
    with pytest.raises(DpbenchError, match=r"cannot write portfolio.png; expected FILE.csv or FILE.md"):
        write_portfolio(found, tmp_path / "portfolio.png")
    console = Console(file=io.StringIO(), width=140)
    print_portfolio(found, console)
    assert "granted weights: run" in console.file.getvalue()  # type: ignore[attr-defined]
    assert portfolio(list(reversed(records()))).table.equals(found.table)


def test_the_command_prints_it_writes_it_and_refuses_what_makes_no_sense(tmp_path: Path, dpbench: Any):
    for one in records():
        CELLS.write(tmp_path / "run", one)
    shown = dpbench("leaderboard", tmp_path / "run", "--portfolio", "--output", tmp_path / "portfolio.csv")
    assert shown.status == 0
    assert "granted weights: run" in shown.out
    assert "portfolio.csv: 4 rows" in shown.out
    drawn = dpbench("leaderboard", tmp_path / "run", "--portfolio", "--output", tmp_path / "portfolio.png")
    assert (drawn.status, drawn.err.count("\n")) == (2, 1)
    assert "expected FILE.csv or FILE.md" in drawn.err
    both = dpbench("leaderboard", tmp_path / "run", "--portfolio", "--equal-accuracy")
    assert both.status == 2
    assert "leave the other options out" in both.err
