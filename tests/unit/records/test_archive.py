"""Records in one file: what goes in comes out with its digest; a stranger's file is bounded, or refused in a line."""

import json
import lzma
import tracemalloc

import kept_run
import pytest

import dpbench as package
from dpbench.errors import DpbenchError
from dpbench.records import archive
from dpbench.records.archive import head_of, texts_of, write_archive
from dpbench.records.record_files import digest_of
from dpbench.records.store import CELLS


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = tmp_path_factory.mktemp("made") / "run"
    kept_run.make_run(run)
    return run


@pytest.fixture(scope="module")
def packed(run):
    path = run.parent / "run.jsonl.xz"
    CELLS.write_archive([run], path, list)
    return path


def pack(path, *lines):
    path.write_bytes(lzma.compress("".join(f"{line}\n" for line in lines).encode()))
    return path


def head(count, folder="records", form=1):
    return json.dumps({"dpbench_records": form, "folder": folder, "count": count})


def test_what_goes_in_comes_out_sealed_as_it_was(run, packed):
    assert list(CELLS.all(packed)) == list(CELLS.all(run))
    for text, path in zip(texts_of(packed), CELLS.files(run), strict=True):
        assert json.loads(text) == json.loads(path.read_text())
        assert json.loads(text)["digest"] == digest_of(json.loads(text))


def test_equal_records_give_equal_bytes_from_whatever_holds_them(run, packed, tmp_path):
    again = tmp_path / "again.jsonl.xz"
    assert CELLS.write_archive([packed, run], again, lambda all_: {one.id: one for one in all_}.values()) == 2
    assert again.read_bytes() == packed.read_bytes()


def test_every_verb_that_reads_a_run_takes_the_file(run, packed, tmp_path, dpbench):
    for source, name in ((run, "run"), (packed, "file")):
        assert dpbench("leaderboard", source, "--output", tmp_path / f"{name}.csv").status == 0
    assert (tmp_path / "file.csv").read_bytes() == (tmp_path / "run.csv").read_bytes()
    assert dpbench("check", packed, "--baseline", run).status == 0
    assert dpbench("check", packed, "--baseline", tmp_path / "run.csv").status == 0
    assert package.load_records(packed).equals(package.load_records(run))
    outcome = dpbench("verify", packed)
    assert outcome.status == 0
    assert "2 records" in outcome.out
    assert "records without images" in outcome.out
    assert len(dpbench("show", packed).out.splitlines()) == 2
    assert "holds records alone" in dpbench("show", packed, "--output", tmp_path / "x.png").err


def test_a_file_of_the_other_protocol_is_known_by_what_it_says(tmp_path, dpbench):
    kept_run.make_sharing_run(tmp_path / "run")
    assert dpbench("leaderboard", tmp_path / "run", "--output", tmp_path / "shared.jsonl.xz").status == 0
    assert head_of(tmp_path / "shared.jsonl.xz").folder == "sharing"
    assert dpbench("leaderboard", tmp_path / "shared.jsonl.xz", "--output", tmp_path / "b.csv").status == 0
    outcome = dpbench("leaderboard", pack(tmp_path / "a.jsonl.xz", head(0, "else")), "--output", tmp_path / "b.csv")
    assert (outcome.status, len(outcome.err.splitlines())) == (2, 1)
    assert "a protocol that is not known here" in outcome.err


def test_an_edit_in_the_file_is_found(packed, tmp_path, dpbench):
    first, second = texts_of(packed)
    edited = json.loads(first)
    edited["fidelity"]["ssim"][0] = 0.1
    path = pack(tmp_path / "edited.jsonl.xz", head(2), json.dumps(edited), second)
    outcome = dpbench("verify", path)
    assert outcome.status == 1
    assert "edited.jsonl.xz, record 1 was altered or damaged" in outcome.out
    assert "does not fit its digest" in dpbench("leaderboard", path, "--output", tmp_path / "b.csv").err
    twice = pack(tmp_path / "twice.jsonl.xz", head(2), first, first)
    assert "is a second record of" in dpbench("verify", twice).out


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is cut short"),
        (b"cell,ssim\n" * 9, "format not supported"),
        (lzma.compress(b"{}\n"), "first line does not say"),
        (lzma.compress(head(0, form=2).encode() + b"\n"), "first line does not say"),
        (lzma.compress(head(-1).encode() + b"\n"), "first line does not say"),
        (lzma.compress(head(2).encode() + b"\n{}\n"), "2 records follow, and 1 do"),
        (lzma.compress(head(0).encode() + b"\n{}\n"), "0 records follow, and more do"),
        (lzma.compress(head(1).encode() + b"\n{"), "ends within a record"),
        (lzma.compress(head(1).encode() + b"\n\xff\n"), "is no text"),
        (lzma.compress(head(0).encode() + b"\n")[:-4], "it is cut short"),
        (lzma.compress(head(0).encode() + b"\n") + b"more", "something follows its end"),
        (lzma.compress(head(0).encode() + b"\n", format=lzma.FORMAT_ALONE), "format not supported"),
    ],
)
def test_what_is_no_file_of_records_is_refused_in_a_line(tmp_path, content, said):
    path = tmp_path / "x.jsonl.xz"
    path.write_bytes(content)
    with pytest.raises(DpbenchError, match="cannot be read as records") as refused:
        list(texts_of(path))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_missing_file_is_refused(tmp_path, dpbench):
    outcome = dpbench("verify", tmp_path / "none.jsonl.xz")
    assert (outcome.status, len(outcome.err.splitlines())) == (2, 1)
    assert "No such file" in outcome.err


def test_a_file_that_unpacks_to_too_much_is_left_before_it_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MOST_OF_A_LINE", 1 << 20)
    path = tmp_path / "bomb.jsonl.xz"
    path.write_bytes(lzma.compress(head(1).encode() + b"\n" + b" " * (1 << 26), preset=0))
    tracemalloc.start()
    with pytest.raises(DpbenchError, match="unpacks to more than any run holds"):
        list(texts_of(path))
    assert tracemalloc.get_traced_memory()[1] < 1 << 23
    tracemalloc.stop()
    monkeypatch.setattr(archive, "MOST_BYTES", 1 << 20)
    pack(path, head(1 << 20), *["{}"] * (1 << 19))
    with pytest.raises(DpbenchError, match="unpacks to more than any run holds"):
        list(texts_of(path))


def test_a_file_that_wants_too_much_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MEMORY", 1 << 20)
    path = tmp_path / "x.jsonl.xz"
    write_archive(path, "records", [])
    with pytest.raises(DpbenchError, match=r"(?i)memory usage limit"):
        head_of(path)


@pytest.mark.parametrize("place", ["/home/somebody/photos/cats", "C:\\photos\\cats", "/cats/"])
def test_a_file_does_not_say_where_images_lay(run, tmp_path, place):
    told = json.loads(CELLS.files(run)[0].read_text())
    told["cell"]["dataset"]["name"] = place
    told["cell"]["shifted"] = {**told["cell"]["dataset"]}
    told["digest"] = digest_of(told)
    write_archive(tmp_path / "one.jsonl.xz", "records", [json.dumps(told)])
    (text,) = texts_of(tmp_path / "one.jsonl.xz")
    found = json.loads(text)
    assert (found["cell"]["dataset"]["name"], found["cell"]["shifted"]["name"]) == ("cats", "cats")
    assert found["digest"] == digest_of(found) != told["digest"]
    assert found["id"] == told["id"]
