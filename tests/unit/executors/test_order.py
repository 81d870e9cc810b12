"""In what order tasks are given out, how a plan is divided, and which executors there are."""

import itertools
import sys

import pytest
from jobs import Behaving

from dpbench.errors import DpbenchError
from dpbench.executors import on_ray
from dpbench.executors.executor import Means, Task
from dpbench.executors.graph import Graph
from dpbench.executors.known import find_executor, start_executor
from dpbench.executors.shares import parse_shard, share


def test_a_task_waits_for_what_it_needs():
    tasks = [Task(name, name) for name in ("net", "a", "b", "c")]
    graph = Graph(tasks, {"a": ["net"], "b": ["a", "net"], "c": ["elsewhere"]})
    order = [graph.next([]), graph.next([])]
    assert [task.id for task in order] == ["net", "c"]
    assert graph.next([]) is None
    assert [task.id for task in graph.waiting_for(tasks[0])] == ["a", "b"]
    graph.done(tasks[0])
    assert graph.next([]).id == "a"
    graph.put_back(tasks[1])
    assert graph.next([]).id == "a"
    graph.done(tasks[1])
    assert graph.next([]).id == "b"


def test_the_longest_path_comes_first_and_what_is_about_as_long_in_order():
    names = ("short", "net", "quick", "slow", "long", "as-long", "gan")
    tasks = [Task(name, name) for name in names]
    after = {"quick": ["net"], "slow": ["net"], "gan": ["slow"]}
    seconds = {"short": 1, "net": 2, "quick": 3, "slow": 60, "long": 40, "as-long": 45, "gan": 200}
    graph, order = Graph(tasks, after, seconds), []
    while task := graph.next([]):
        order.append(task.id)
        graph.done(task)
    assert order == ["net", "slow", "gan", "long", "as-long", "quick", "short"]
    # what is asked of each other in a circle never starts, and stops nothing else
    assert Graph(tasks[:3], {"net": ["quick"], "quick": ["net"]}, seconds).next([]).id == "short"


def test_what_may_train_the_same_thing_comes_later_where_there_is_something_else():
    tasks = [Task(name, name, alone=alone) for name, alone in (("a", "x"), ("b", "x"), ("c", "y"))]
    graph = Graph(tasks, {})
    running = [graph.next([])]
    running.append(graph.next(running))
    assert [task.id for task in running] == ["a", "c"]
    assert graph.next(running).id == "b"


def test_what_uses_the_networks_of_another_run_s_task_comes_last():
    tasks = [Task(name, name, near=near) for name, near in (("a", "x"), ("b", "x"), ("c", "y"), ("d", ""))]
    graph = Graph(tasks, {})
    claimed = [graph.next([])]
    assert [graph.next([], claimed).id for _ in range(3)] == ["c", "d", "b"]
    assert graph.next([], claimed) is None


def test_shares_are_disjoint_and_together_everything():
    for many, sizes in itertools.product((1, 2, 3, 7, 40), ([5, 5, 5], [1] * 23, [90, 1, 9], [3], [])):
        groups = [str(group) for group, size in enumerate(sizes) for _ in range(size)]
        items = list(range(len(groups)))
        shares = [share(items, groups, (place + 1, many)) for place in range(many)]
        assert [item for one in shares for item in one] == items
        # what is shared is made at most so much oftener than by one machine
        made = sum(len({groups[item] for item in one}) for one in shares)
        assert made <= len(sizes) + many - 1


def test_a_share_ends_where_nothing_shared_is_cut_in_two():
    groups = ["a"] * 9 + ["b"] * 11 + ["c"] * 10
    shares = [share(list(range(30)), groups, (place, 3)) for place in (1, 2, 3)]
    assert [len(one) for one in shares] == [9, 11, 10]


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0", "-1/2", "1/2/3", ""])
def test_a_share_that_is_none_is_refused(text):
    with pytest.raises(DpbenchError, match="expected I/N"):
        parse_shard(text)
    assert parse_shard("2/8") == (2, 8)


def test_executors_are_found_by_name_or_file(tmp_path):
    assert start_executor(Behaving(), Means()).submit(Task("a", "x")).result() == "x"
    assert find_executor("processes").name == "processes"
    with pytest.raises(DpbenchError, match="did you mean 'processes'"):
        find_executor("process")
    (tmp_path / "wrong.py").write_text("class Wrong: pass\nraise_later = 1\n")
    with pytest.raises(DpbenchError, match="is not derived from"):
        find_executor(f"{tmp_path}/wrong.py:Wrong")
    with pytest.raises(DpbenchError, match=r"unknown class in wrong.py 'Rong'; did you mean 'Wrong'"):
        find_executor(f"{tmp_path}/wrong.py:Rong")
    with pytest.raises(DpbenchError, match="there is no file"):
        find_executor(f"{tmp_path}/gone.py:Wrong")
    (tmp_path / "broken.py").write_text("import sys; sys.exit('no')")
    with pytest.raises(DpbenchError, match="does not import: SystemExit: no"):
        find_executor(f"{tmp_path}/broken.py:Wrong")


@pytest.mark.parametrize(
    ("means", "words"),
    [
        ({"workers": 0}, "--workers 0"),
        ({"timeout": float("nan")}, "nan"),
        ({"timeout": 0.0}, "--timeout 0 is not usable; expected seconds, to 1e\\+06"),
        ({"timeout": float("inf")}, "inf"),
        ({"address": "auto"}, "add --executor ray"),
        ({"address": "auto", "executor": "processes"}, "of a cluster"),
    ],
)
def test_means_that_are_none_are_refused(means, words):
    with pytest.raises(DpbenchError, match=words):
        Means(**means)


def test_without_ray_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    on_ray._ray.cache_clear()
    with pytest.raises(DpbenchError, match=r"pip install 'ray>=2\.9'$"):
        start_executor(Behaving(), Means(executor="ray"))
    on_ray._ray.cache_clear()
