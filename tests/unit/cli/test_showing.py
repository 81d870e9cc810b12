"""Rows of a comparison say which attack they are of."""

from pathlib import Path

from dpbench.cli.showing import Shown, _note


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


def test_alone_an_attack_is_called_by_its_name():
    row = shown("decoder", " steps=9")
    assert _note(row, [row]) == "decoder, query: SSIM 0.50"
