"""What earlier runs took, and where the time of one went."""

import json

from dpbench.executors.executor import Task
from dpbench.executors.times import Spent, Times, Trace


def test_kinds_are_known_by_suite_and_else_by_all(tmp_path):
    Times(tmp_path, "a").add({"decoder": Spent(2, 20.0, 2000, 5), "rmle": Spent(1, 7.0, 100, 9)})
    Times(tmp_path, "a").add({"decoder": Spent(2, 40.0, 2000, 3)})
    assert Times(tmp_path, "a").expected(["decoder", "rmle", "new"]) == (Spent(2, 22.0, 1100.0, 9), 1)
    assert Times(tmp_path, "b").expected(["decoder"]) == (Spent(1, 15.0, 1000.0, 5), 0)
    Times(tmp_path, "b").add({"decoder": Spent(1, 1.0, 1, 1)})
    assert Times(tmp_path, "b").expected(["decoder"])[0].seconds == 1.0
    assert {kind: one.seconds for kind, one in Times(tmp_path, "b").of_one().items()} == {"decoder": 1.0, "rmle": 7.0}


def test_a_file_that_says_nothing_is_no_error(tmp_path):
    for text in ("", "[]", '{"a": {"k": {"count": NaN}}}', '{"a": {"k": {"hours": 3}}}', '{"a": 3}'):
        (tmp_path / "times.json").write_text(text)
        assert Times(tmp_path, "a").expected(["k"]) == (Spent(), 1)
        Times(tmp_path, "a").add({})


def test_a_trace_has_a_lane_for_each_worker(tmp_path):
    trace = Trace()
    net, first, second = Task("n", "", makes="backbone"), Task("a", ""), Task("b", "")
    trace.begin(net)
    trace.end(net, {})
    trace.begin(first)
    trace.begin(second)
    trace.end(first, {"data": 0.25, "attack": 0.5})
    trace.end(second, {"attack": 0.25})
    assert [line.split()[0] for line in trace.table()] == ["attack", "data", "backbone"]
    assert "2 times" in trace.table()[0]
    trace.write(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert {event["name"]: event["tid"] for event in events if event["name"] in "abn"} == {"a": 1, "b": 2}
    assert all({"name", "ph", "ts", "dur", "pid", "tid"} <= event.keys() for event in events)
