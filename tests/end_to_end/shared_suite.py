"""A tiny suite of the protocol `sharing`: two entities, every condition, transfers."""

from tiny_suite import table, tiny_sharing

DECODER = {"name": "decoder", "steps": 4, "width": 16, "blocks": 1}


CONDITIONS = (
    *("own", "own-longer", "clean-images", "clean-features", "sender-tail", "soft-labels"),
    *("defended-features", "shuffled-labels", "equal-noise"),
)


DPM = {"name": "dpm", "epochs": 1}


def suite(defense=DPM):
    return tiny_sharing(
        [{"name": "gaussian", "std": 1.0}, defense],
        ["mean-image", DECODER],
        entities={"clinic": 24, "hospital": 48},
        dataset={"private": 84, "auxiliary": 64, "test": 40},
        backbone={"epochs": 1},
        refinement={"steps": 2, "batch_size": 8},
        victims=6,
        conditions=CONDITIONS,
    )


TRANSFER = table("[transfer]", {"fits": 3}) + table("[transfer.defense]", DPM) + table("[transfer.attack]", DECODER)


TINY = suite() + TRANSFER


def of_kind(kind, units, **having):
    return [u for u in units if isinstance(u, kind) and all(getattr(u, k) == v for k, v in having.items())]


def quiet(text):
    """No progress to show."""
