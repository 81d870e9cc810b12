"""Run directories to report on: three defenses and a stranger's, with pictures and curves; a partner who gains."""

from types import SimpleNamespace

import numpy as np
import sharing_records
import torch
from record_factory import make_record

from dpbench.cells.kept_images import keep_images
from dpbench.data.images import content_hash
from dpbench.protocols.sharing.records import SHARED
from dpbench.records.store import CELLS

HOSTILE = '<img src=x onerror="document.title=1">'
"""A defense that calls itself so: on a page it is text."""

VICTIMS = 8


def images(noise):
    """Victims, copies of them, and the victims' hashes."""
    coarse = np.random.default_rng(0).integers(0, 256, (VICTIMS, 3, 8, 8), dtype=np.uint8)
    pixels = coarse.repeat(4, axis=2).repeat(4, axis=3)
    victims = torch.from_numpy(pixels).float() / 255
    drawn = torch.randn(victims.shape, generator=torch.Generator().manual_seed(0))
    return victims, (victims + noise * drawn).clamp(0, 1), [content_hash(image) for image in pixels]


def write_run(folder):
    """Three defenses at two split points, one of them a stranger's, with pictures and a curve."""
    for split in ("layer1", "layer2"):
        for defense, ssim, right, rank in (
            ("none", 0.9, 58, 0),
            ("gaussian", 0.6, 57, 0),
            ("dpm", 0.2, 50, 30),
            (HOSTILE, 0.85, 59, 0),
        ):
            for attack, threat_model in (("decoder", "weights"), ("decoder", "static"), ("rmle", "weights")):
                victims, recovered, hashes = images(1 - ssim)
                record = make_record(
                    split_point=split,
                    defense=defense,
                    defense_args={"std": 1.0} if defense == "gaussian" else {},
                    attack=attack,
                    threat_model=threat_model,
                    ssim=ssim - (0.1 if threat_model == "static" else 0),
                    psnr_db=20 * ssim,
                    reid_rank=rank,
                    victims=hashes,
                    correct=[place < right for place in range(60)],
                )
                notes = {"curves": {"loss": [[1, 0.9], [10, 0.5], [20, 0.1]]}} if attack == "rmle" else {}
                record = record.model_copy(
                    update={
                        "notes": notes,
                        "environment": {"python": "3.11", "os": HOSTILE},
                        "created": "2026-01-01T00:00:00+00:00",
                        "kept": kept(folder, record.id, victims, recovered, record.fidelity, shows=attack == "rmle"),
                    }
                )
                CELLS.write(folder, record)
        CELLS.write(folder, make_record(split_point=split, attack="mean-image", ssim=0.2, reid_rank=40, victims=hashes))
        failed = make_record(split_point=split, defense="dropout", attack="gan", victims=hashes, failed=HOSTILE)
        CELLS.write(folder, failed)
    return folder


def kept(folder, name, victims, recovered, fidelity, *, shows=False):
    frames = {step: recovered[0] * step / 20 for step in (1, 10, 20)} if shows else None
    result = SimpleNamespace(victims=victims, reconstructions=recovered, fidelity=fidelity)
    return keep_images(folder, name, result, title=name, frames=frames)


def write_sharing_run(folder):
    """A partner who gains from noisy features, and recovers from them."""
    victims, recovered, hashes = images(0.1)
    for condition, right, defense in (
        ("own", 30, None),
        ("clean-features", 50, None),
        ("defended-features", 45, "gaussian"),
    ):
        correct = [place < right for place in range(60)]
        SHARED.write(folder, sharing_records.trained(condition, correct, defense=defense))
    for defense, ssim in (("none", 0.9), ("gaussian", 0.6)):
        for attack, figure in (("mean-image", 0.2), ("decoder", ssim)):
            given = [figure] * VICTIMS
            record = sharing_records.attacked(attack, "public", given, defense, victims=hashes)
            update = {"kept": kept(folder, record.id, victims, recovered, record.fidelity)}
            SHARED.write(folder, record.model_copy(update=update))
    for prepared_on, judged_on in (([0], 0), ([0], 1), ([1], 0), ([1], 1)):
        SHARED.write(folder, sharing_records.transferred(prepared_on, judged_on, [0.5 - 0.2 * judged_on] * 4))
    return folder
