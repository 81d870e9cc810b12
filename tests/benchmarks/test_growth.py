"""What a cell costs to plan, to find finished and to put on a board, of 1,000 and of 10,000, and what a board holds.

Figures are reported by pytest-benchmark and printed; nothing here asserts a time.

python -m pytest -n 0 -s tests/benchmarks/test_growth.py
"""

import contextlib
import gc
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from parsing import parse_suite
from record_factory import make_record
from tiny_suite import SUITE

from dpbench.api import plan
from dpbench.board.leaderboard import build_board
from dpbench.protocols.known import DEFAULT
from dpbench.records.record import Record
from dpbench.records.record_files import digest_of
from dpbench.records.store import CELLS

SEEDS, ATTACKS = 5, ("decoder", "rmle")
VICTIMS = 16


def suite_of(cells: int):
    """All settings in one place: what grows with the square of their number shows."""
    settings = cells // (SEEDS * len(ATTACKS))
    attacks = "".join(f'[[attacks]]\nname = "{name}"\n' for name in ATTACKS)
    head = SUITE.partition("[[defenses]]")[0].replace("victims = 4", f"victims = {VICTIMS}\nseeds = {[*range(SEEDS)]}")
    noise = "".join(f'[[defenses]]\nname = "gaussian"\nstd = {1 + place / 1000}\n' for place in range(settings))
    return parse_suite(f'{head}[[defenses]]\nname = "none"\n{noise}{attacks}', origin="test")


def figures(rng):
    return {"ssim": rng.uniform(0, 1, VICTIMS).tolist(), "psnr_db": rng.uniform(5, 20, VICTIMS).tolist()}


@pytest.fixture(scope="module", params=[1000, 10_000])
def finished(request, tmp_path_factory):
    """A suite of so many cells and the run directory with a record of each."""
    suite, run = suite_of(request.param), tmp_path_factory.mktemp("run")
    plan(suite_of(SEEDS * len(ATTACKS)), output=run / "warm")
    rng, like = np.random.default_rng(0), make_record(victims=VICTIMS, correct=[True] * 64)
    for unit in plan(suite, output=run / "none").units:
        CELLS.write(run, like.model_copy(update={"cell": unit, "id": unit.id, "fidelity": figures(rng)}))
    return suite, run


@pytest.mark.parametrize("stage", ["plan", "resume", "board"])
def test_a_cell_costs_no_more_where_there_are_many(benchmark, finished, stage):
    suite, run = finished
    if stage == "board":
        records = list(CELLS.all(run))
        call = lambda: DEFAULT.board(records)  # noqa: E731
    else:
        call = lambda: plan(suite, output=run / "none" if stage == "plan" else run)  # noqa: E731
    began = time.process_time()
    benchmark.pedantic(call, rounds=1)
    cells = len(CELLS.files(run))
    benchmark.extra_info["ms a cell"] = 1000 * (time.process_time() - began) / cells
    print(f"\n{stage} of {cells} cells: {benchmark.extra_info['ms a cell']:.2f} ms of CPU a cell", flush=True)


def grid(places: int) -> Iterator[Record]:
    """Records of 100 cells at each place: 20 settings, four attacks and a floor."""
    rng = np.random.default_rng(0)
    for place in range(places):
        for setting in range(20):
            named = {"defense": "gaussian", "defense_args": {"std": setting}} if setting else {}
            correct = (rng.random(500) < 0.8).tolist()
            for attack in ("mean-image", "decoder", "rmle", "glass", "dip"):
                given = figures(rng) if attack != "mean-image" else {"ssim": 0.0, "psnr_db": 5.0}
                more = {"backbone": f"net{place}", "victims": VICTIMS, "correct": correct}
                yield make_record(attack=attack, **named, **given, **more)


def write_fast(run: Path, records: Iterator[Record]) -> None:
    """As `CELLS.write`, without asking the disk to keep each before the next."""
    (run / CELLS.folder).mkdir()
    for record in records:
        content = record.model_dump(mode="json")
        CELLS.path(run, record.id).write_text(json.dumps({**content, "digest": digest_of(content)}))


@contextlib.contextmanager
def most_memory() -> Iterator[list[int]]:
    """Bytes beyond those of the start that this process has at its peak, once it has ended."""
    process, ended, found = psutil.Process(), threading.Event(), [0]
    gc.collect()
    before = process.memory_info().rss

    def watch() -> None:
        while not ended.wait(0.05):
            found[0] = max(found[0], process.memory_info().rss - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        ended.set()
        watcher.join()


@pytest.mark.parametrize("cells", [1000, 10_000, 100_000])
def test_what_a_board_of_a_run_holds(benchmark, tmp_path, cells):
    build_board(list(grid(1)))
    write_fast(tmp_path, grid(cells // 100))
    began = time.process_time()
    with most_memory() as most:
        board = benchmark.pedantic(lambda: build_board(CELLS.counted([tmp_path], DEFAULT.newest)), rounds=1)
    spent = 1000 * (time.process_time() - began) / cells
    benchmark.extra_info |= {"MB at most": most[0] / 1e6, "ms a cell": spent}
    print(
        f"\n{cells} cells, {len(board)} rows: {most[0] / 1e6:.0f} MB at most, {spent:.1f} ms of CPU a cell", flush=True
    )
