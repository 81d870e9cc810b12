"""A Ray cluster of several nodes on this machine: the records of worker processes, whatever dies meanwhile.

Starting nodes takes half a minute, and Ray is no part of the extra `test`: pip install '.[ray]'.
"""

import psutil
import pytest

ray = pytest.importorskip("ray")

from parsing import parse_suite  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402
from tiny_suite import SUITE  # noqa: E402

from dpbench.api import plan  # noqa: E402
from dpbench.executors.executor import Means  # noqa: E402
from dpbench.running.runner import execute  # noqa: E402

GRID = (
    SUITE.replace("private = 256", "private = 64").replace("auxiliary = 128", "auxiliary = 64")
    + """
[[defenses]]
name = "gaussian"
[[attacks]]
name = "decoder"
steps = 20
[[attacks]]
name = "nearest-auxiliary"
"""
)

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def cluster():
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster, nodes
    ray.shutdown()
    cluster.shutdown()


class Meanwhile:
    """Does something when the second unit starts."""

    def __init__(self, act=lambda: None):
        self.act, self.started_units = act, 0

    def started(self, unit):
        self.started_units += 1
        if self.started_units == 2:
            self.act()

    def progress(self, text, part):
        pass

    def finished(self, unit, state, record):
        pass


def run(output, watcher=None, **means):
    planned = plan(parse_suite(GRID, origin="test"), output=output)
    records = execute(planned, device="cpu", watcher=watcher, means=Means(**means))
    apart = {"seconds", "peak_memory_mb", "memory", "created", "environment"}
    return {record.id: record.model_dump(exclude=apart) for record in records}


def kill_a_worker():
    workers()[0].kill()


def workers():
    found = psutil.process_iter(["name", "status"])
    named = [one for one in found if one.info["name"].startswith("ray::_Actor")]
    return [one for one in named if one.info["status"] != psutil.STATUS_ZOMBIE]


def test_the_records_of_processes_whatever_dies(cluster, tmp_path):
    cluster, nodes = cluster
    expected = run(tmp_path / "one", workers=1, executor="processes")
    assert {record["status"] for record in expected.values()} == {"ok"}
    assert run(tmp_path / "two", executor="ray") == expected
    assert run(tmp_path / "three", Meanwhile(kill_a_worker), executor="ray") == expected
    lost = Meanwhile(lambda: cluster.remove_node(nodes[1], allow_graceful=False))
    assert run(tmp_path / "four", lost, executor="ray") == expected
    assert workers() == []
