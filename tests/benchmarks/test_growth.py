"""What a cell of a large grid costs to plan, to find finished and to put on a board.

python -m pytest -n 0 -s tests/benchmarks/test_growth.py
"""

import time

import numpy as np
import psutil
import pytest
from parsing import parse_suite
from record_factory import make_record
from tiny_suite import SUITE

from dpbench.api import plan
from dpbench.protocols.known import DEFAULT
from dpbench.records.store import CELLS

SEEDS, ATTACKS = 5, ("decoder", "rmle")
VICTIMS = 16

MOST_SECONDS = {"plan": 0.005, "resume": 0.005, "board": 0.010}
"""Of each cell, however many there are."""


def suite_of(cells: int):
    settings = cells // (SEEDS * len(ATTACKS))
    attacks = "".join(f'[[attacks]]\nname = "{name}"\n' for name in ATTACKS)
    head = SUITE.partition("[[defenses]]")[0].replace("victims = 4", f"victims = {VICTIMS}\nseeds = {[*range(SEEDS)]}")
    noise = "".join(f'[[defenses]]\nname = "gaussian"\nstd = {1 + place / 1000}\n' for place in range(settings))
    return parse_suite(f'{head}[[defenses]]\nname = "none"\n{noise}{attacks}', origin="test")


def finished(run, units):
    """Write a record of each unit."""
    rng = np.random.default_rng(0)
    like = make_record(victims=VICTIMS, correct=[True] * 64)
    for unit in units:
        fidelity = {"ssim": rng.uniform(0, 1, VICTIMS).tolist(), "psnr_db": rng.uniform(5, 20, VICTIMS).tolist()}
        CELLS.write(run, like.model_copy(update={"cell": unit, "id": unit.id, "fidelity": fidelity}))


def timed(call, *arguments, **more):
    began, before = time.process_time(), psutil.Process().memory_info().rss
    found = call(*arguments, **more)
    return found, time.process_time() - began, psutil.Process().memory_info().rss - before


@pytest.mark.parametrize("cells", [1000, 4000])
def test_a_cell_costs_no_more_where_there_are_many(cells, tmp_path):
    suite = suite_of(cells)
    plan(suite_of(SEEDS * len(ATTACKS)), output=tmp_path / "warm")
    planned, to_plan, held = timed(plan, suite, output=tmp_path)
    finished(tmp_path, planned.units)
    resumed, to_resume, _ = timed(plan, suite, output=tmp_path)
    assert len(resumed.finished) == len(resumed.units)
    records = list(CELLS.all(tmp_path))
    _, to_board, _ = timed(DEFAULT.board, records)
    count = len(planned.units)
    spent = {"plan": to_plan, "resume": to_resume, "board": to_board}
    each = {name: seconds / count for name, seconds in spent.items()}
    print(
        f"{count} cells:",
        *(f"{name} {1000 * one:.2f} ms" for name, one in each.items()),
        f"{held / count:.0f} B",
        flush=True,
    )
    assert all(each[name] < most for name, most in MOST_SECONDS.items()), each
