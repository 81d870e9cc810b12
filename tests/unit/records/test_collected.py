"""Very many records stay in their files: the same board, and no more than one place of it in memory."""

import weakref

import pytest
from parsing import parse_suite
from record_factory import make_grid, make_record
from tiny_suite import SUITE

from dpbench.api import plan
from dpbench.board import cells as board_cells
from dpbench.board import leaderboard
from dpbench.board.leaderboard import build_board
from dpbench.errors import DpbenchError
from dpbench.protocols.known import DEFAULT
from dpbench.records import collected
from dpbench.records.collected import Records, RecordsById, heads_of
from dpbench.records.store import CELLS
from dpbench.running.runner import execute


@pytest.fixture
def few(monkeypatch):
    """So many records are held, here."""
    monkeypatch.setattr(collected.Records.__init__, "__kwdefaults__", {"held": 3})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    newer = make_record(ssim=0.1, source="v0", created="2020-01-01T00:00:00+00:00", attack="rmle", victims=4)
    for record in [*make_grid(images=8), newer, make_record(defense="dpm", failed="it fell over")]:
        CELLS.write(folder, record)
    return folder


def test_the_board_of_records_on_disk_is_the_one_of_records_in_memory(run, few):
    kept = DEFAULT.newest(CELLS.all(run))
    on_disk = CELLS.counted([run], DEFAULT.newest)
    assert isinstance(on_disk, Records)
    assert [record.id for record in on_disk] == [record.id for record in kept]
    boards = [build_board(records) for records in (kept, on_disk)]
    assert DEFAULT.as_csv(boards[0]) == DEFAULT.as_csv(boards[1])
    assert boards[0].attrs == boards[1].attrs


def test_few_records_are_read_once(run):
    records = CELLS.counted([run], DEFAULT.newest)
    assert isinstance(records, list)
    assert records[0].victims is records[1].victims  # what they say alike is held once


def test_cells_of_one_place_at_a_time_are_held(run, few, monkeypatch):
    alive, sizes = weakref.WeakSet(), []

    def watched(records):
        for cells in board_cells.cells_by_place(records):
            alive.update(cells)
            sizes.append((len(cells), len(alive)))
            yield cells
            del cells

    monkeypatch.setattr(leaderboard, "cells_by_place", watched)
    records = CELLS.counted([run], DEFAULT.newest)
    build_board(records)
    places, together = zip(*sizes, strict=True)
    assert sum(places) == len(records)
    assert len(places) == 2
    assert max(together) == max(places)


def test_a_head_says_which_record_counts(run, few):
    heads = heads_of(CELLS.counted([run], list))
    assert not hasattr(heads[0], "fidelity")
    counting = {record.id for record in DEFAULT.newest(CELLS.all(run))}
    assert {head.id for head in DEFAULT.newest(heads)} == counting


def test_records_of_units_are_found_by_their_ids(tmp_path):
    given = [make_record(seed=seed) for seed in range(5)]
    for most in (9, 2):
        records = Records(lambda name: CELLS.read(CELLS.path(tmp_path, name)), held=most)
        for record in given:
            records.add(CELLS.write(tmp_path, record), record.id)
        by_id = RecordsById(records)
        assert list(by_id) == [record.id for record in given]
        assert len(by_id) == len(records) == 5
        assert by_id[given[3].id].cell.seed == 3
        assert [record.cell.seed for record in records[1:3]] == [1, 2]
        reverse = records.chosen(lambda heads: sorted(heads, key=lambda head: -head.unit_measured.seed))
        assert [record.cell.seed for record in reverse] == [4, 3, 2, 1, 0]


def test_a_record_that_is_gone_is_written_again_while_it_is_held_and_said_where_it_is_not(tmp_path):
    for most, again in ((9, 1), (1, None)):
        records = Records(lambda name: CELLS.read(CELLS.path(tmp_path, name)), held=most)
        for seed in range(3):
            record = CELLS.write(tmp_path, make_record(seed=seed))
            records.add(record, record.id)
        CELLS.path(tmp_path, record.id).unlink()
        if again:
            assert CELLS.restore(tmp_path, records) == again
        else:
            with pytest.raises(DpbenchError, match="cannot be read"):
                CELLS.restore(tmp_path, records)


def test_a_finished_run_is_found_and_given_back_in_the_order_of_its_plan(tmp_path, few):
    suite = parse_suite(SUITE.replace("victims = 4", "victims = 4\nseeds = [0, 1, 2, 3, 4]"), origin="test")
    units = plan(suite, output=tmp_path).units
    like = make_record(victims=4)
    for unit in reversed(units):
        CELLS.write(tmp_path, like.model_copy(update={"cell": unit, "id": unit.id}))
    found = plan(suite, output=tmp_path)
    assert found.left == []
    assert {name: record.id for name, record in found.finished.items()} == {unit.id: unit.id for unit in units}
    records = execute(found, device="cpu")
    assert isinstance(records, Records)
    assert not records.in_memory
    assert [record.id for record in records] == [unit.id for unit in units]
