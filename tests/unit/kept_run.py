"""Run directories of both protocols with records that their images bear out, without a run."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import sharing_records
import torch
from record_factory import make_record

from dpbench.board.files import write_board
from dpbench.board.leaderboard import build_board
from dpbench.cells.kept_images import keep_images
from dpbench.data.images import content_hash
from dpbench.data.spec import DatasetSpec
from dpbench.machine.environment import describe_environment
from dpbench.metrics.grading import grade
from dpbench.protocols.sharing import records as sharing
from dpbench.records import store
from dpbench.suite.words import words_of_cell

VICTIMS = 4


def pictures() -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Victims in 8 bits, noisy copies that are not, and the victims' hashes."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (VICTIMS, 8, 8, 3), dtype=np.uint8)
    pixels = coarse.repeat(4, axis=1).repeat(4, axis=2)
    victims = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    noise = torch.randn(victims.shape, generator=torch.Generator().manual_seed(0))
    return victims, (victims + 0.1 * noise).clamp(0, 1), [content_hash(image) for image in pixels.transpose(0, 3, 1, 2)]


def graded() -> dict[str, Any]:
    victims, reconstructions, _ = pictures()
    return grade(reconstructions, victims)[0]


def kept(run: Path, name: str, fidelity: dict[str, Any]) -> dict[str, str]:
    victims, reconstructions, _ = pictures()
    result = SimpleNamespace(victims=victims, reconstructions=reconstructions, fidelity=fidelity)
    return keep_images(run, name, result, title=name)


def make_run(run: Path, *, attacks: tuple[str, ...] = ("decoder", "rmle"), board: bool = True) -> list[store.Record]:
    """A run of cells on one undefended model."""
    hashes, fidelity = pictures()[2], graded()
    written = []
    for attack in attacks:
        record = make_record(attack=attack, victims=hashes, correct=[True] * 60, reid_rank=0, gallery=60, source="")
        cell = record.cell.model_copy(update={"dataset": DatasetSpec(test=60)})
        record = record.model_copy(
            update={
                "cell": cell,
                "id": cell.id,
                "words": words_of_cell(cell),
                "fidelity": fidelity,
                "kept": kept(run, cell.id, fidelity),
                "environment": describe_environment(torch.device("cpu")),
            }
        )
        written.append(store.CELLS.write(run, record))
    if board:
        write_board(build_board(written), run / "board.csv")
    return written


def make_sharing_run(run: Path) -> sharing.SharingRecord:
    """A run of one attack on shared features."""
    hashes, fidelity = pictures()[2], graded()
    record = sharing_records.attacked("decoder", "query", fidelity["ssim"], "gaussian", victims=hashes)
    record = record.model_copy(update={"fidelity": fidelity, "kept": kept(run, record.id, fidelity)})
    return sharing.SHARED.write(run, record)
