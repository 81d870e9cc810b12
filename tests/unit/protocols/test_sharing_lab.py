"""What a machine without a network needs of a sharing suite, and which of its units an audit takes as they are."""

import sharing_records
import torch

from dpbench.protocols.sharing import protocol as sharing
from dpbench.protocols.sharing.pipeline import SharedPipeline
from dpbench.protocols.sharing.protocol import Sharing, SharingLab
from dpbench.suite import preflight

CPU = torch.device("cpu")


def test_weights_are_fetched_once_and_images_of_each_unit(tmp_path, monkeypatch):
    read, entered = [], []
    monkeypatch.setattr(preflight, "read_weights", lambda backbone, size: read.append((backbone.name, size)))
    monkeypatch.setattr(sharing.SharingLab, "enter", lambda self, unit, progress: entered.append(unit))
    lab = SharingLab(SharedPipeline(CPU, tmp_path))
    units = [
        sharing_records.trained("own", [True]).unit,
        sharing_records.attacked("decoder", "query", [0.5], "gaussian").unit,
    ]
    for unit in units:
        lab.fetch(unit, lambda text: None)
    assert (read, entered) == ([("resnet10t", 32)], units)


def test_an_audit_measures_again_what_did_not_run_apart(tmp_path):
    records = [
        sharing_records.trained("own", [True]),
        sharing_records.trained("defended-features", [True], defense="gaussian"),
        sharing_records.attacked("decoder", "query", [0.5], "gaussian"),
    ]
    for audit in (False, True):
        lab = SharingLab(SharedPipeline(CPU, tmp_path, audit=audit))
        again = [one.model_copy(update={"apart": lab.describe(one.unit, None)["apart"]}) for one in records]
        assert [len(one.apart) for one in again] == ([1, 1, 2] if audit else [0, 0, 0])
        assert [Sharing().is_finished(one, one.unit, audit=True) for one in again] == [audit] * 3
        assert all(Sharing().is_finished(one, one.unit, audit=False) for one in again)
