"""Rows of a comparison, and lines of a list, say which attack they are of."""

from pathlib import Path

from dpbench.cli.showing import Shown, _note, listed


def shown(attack, parameters=""):
    label = f"net layer1 | none | {attack} | query | seed 0"
    full = f"net layer1 | none | {attack}{parameters} | query | seed 0"
    return Shown("r", (label, full, "r"), "layer1, none", f"{attack}, query: SSIM 0.50", *[Path("there")] * 3)


def test_what_tells_attacks_of_one_name_apart_is_said():
    rows = [shown("decoder", " steps=9"), shown("decoder", " steps=9 lpips_weight=0.1"), shown("rmle", " steps=4")]
    assert [_note(row, rows) for row in rows] == [
        "decoder, query: SSIM 0.50",
        "decoder lpips_weight=0.1, query: SSIM 0.50",
        "rmle, query: SSIM 0.50",
    ]


def test_a_list_gives_the_full_name_of_those_that_share_a_label():
    rows = [shown("decoder", " steps=9"), shown("decoder", " steps=72"), shown("rmle", " steps=4")]
    assert [line.partition("  ")[2] for line in listed(rows)] == [
        "net layer1 | none | decoder steps=9 | query | seed 0",
        "net layer1 | none | decoder steps=72 | query | seed 0",
        "net layer1 | none | rmle | query | seed 0",
    ]


def test_alone_an_attack_is_called_by_its_name():
    row = shown("decoder", " steps=9")
    assert _note(row, [row]) == "decoder, query: SSIM 0.50"
