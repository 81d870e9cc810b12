"""Victims and what comes back of them, as images that lie within the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from PIL import Image

from dpbench.board.columns import headline_of
from dpbench.cells.kept_images import load_images
from dpbench.contract.threat import THREAT_MODELS, UNDEFENDED
from dpbench.data.images import Pixels
from dpbench.records.pictures import frames_of, pixels_of, reconstructions_path, steps_path
from dpbench.records.record import Envelope
from dpbench.report.content import Gallery, Picture, Strip
from dpbench.reporting.plots.marks import mark_of
from dpbench.reporting.selection import headline
from dpbench.suite.ensembles import floors

Short = Mapping[tuple[str, str], str]
"""(Defense, `defense_args`) -> the parameters that tell a setting from the others."""

SMALL_PX = 64
"""Images up to this side are kept to the last bit, larger ones as JPEG."""

LARGEST_PX = 224
"""Larger ones are made smaller for the page; figures are of the images as they were."""

COLUMNS, FEWEST, ALTOGETHER = 8, 3, 480
"""Victims beside each other: at most, at least, and images of a page."""


def galleries(
    run_dir: Path, panels: Sequence[tuple[str, pd.DataFrame, Short]], records: Mapping[str, Envelope]
) -> list[Gallery]:
    """One for each panel in which there is something to see.

    Args:
        run_dir: holds the reconstructions.
        panels: title, rows of a board (of one network, split point and seed), and how settings are told apart in few
            words.
        records: id -> record, of the same run.

    Raises:
        DpbenchError: reconstructions are damaged.
    """
    chosen = [(title, _strongest_cells(panel, short)) for title, panel, short in panels]
    strips = sum(1 + len(cells) for _, cells in chosen)
    columns = max(FEWEST, min(COLUMNS, ALTOGETHER // max(1, strips)))
    found = [gallery_of(run_dir, title, cells, records, columns) for title, cells in chosen]
    return [gallery for gallery in found if gallery is not None]


def gallery_of(
    run_dir: Path,
    title: str,
    cells: Sequence[tuple[str, str, str]],
    records: Mapping[str, Envelope],
    columns: int = COLUMNS,
) -> Gallery | None:
    """The same victims for all; attacks on others, and those of which nothing was kept, are left out.

    Args:
        run_dir: holds the reconstructions.
        title: of the gallery.
        cells: defense, its setting in words, and the id of the record.
        records: id -> record.
        columns: victims beside each other.
    """
    strips: list[Strip] = []
    victims: Pixels | None = None
    for defense, setting, name in cells:
        path = reconstructions_path(run_dir, name)
        if name not in records or not path.is_file():
            continue
        own, recovered = (pixels_of(images[:columns]) for images in load_images(path))
        if victims is None:
            victims = own
            strips.append(Strip("victims", "never seen by an attacker", _victims(own)))
        shared = min(len(own), len(victims))
        if own.shape[1:] != victims.shape[1:] or (own[:shared] != victims[:shared]).any():
            continue
        colour, marker = mark_of(defense)
        strips.append(Strip(setting, records[name].named.attack, _recovered(recovered, records[name]), colour, marker))
    return Gallery(title, strips) if strips else None


def _strongest_cells(panel: pd.DataFrame, short: Short) -> list[tuple[str, str, str]]:
    """Of each setting the attack of the highest mean figure under the strongest threat model, undefended first."""
    tier = headline(panel)
    # what a weaker attacker can do the stronger one can too, but for the static one, who holds another client
    weaker = THREAT_MODELS[: [str(t) for t in THREAT_MODELS].index(tier) + 1]
    granted = [threat for threat in weaker if (threat == "static") == (tier == "static")]
    cells = panel[(panel["cell"] != "") & panel["status"].isin(["ok", "unreliable"]) & panel["ssim"].notna()]
    cells = cells[~cells["attack"].str.split().str[0].isin(floors())]
    cells = cells[cells["threat_model"].isin(granted) | (cells["defense"] == UNDEFENDED)]
    about = headline_of(panel)
    falling = [about] if about in ("reid_top1", "identity_top1") else []
    best = cells.sort_values([*falling, "ssim"], ascending=False, kind="stable")
    best = best.drop_duplicates(["defense", "defense_args"]).sort_index()
    chosen = [
        (
            str(row["defense"]),
            f"{row['defense']} {short[row['defense'], row['defense_args']]}".strip(),
            str(row["cell"]),
        )
        for row in best.to_dict("records")
    ]
    return sorted(chosen, key=lambda one: one[0] != UNDEFENDED)


def _victims(pixels: Pixels) -> list[Picture]:
    return [
        Picture(encoded(image), f"victim {number}", "", f"victim {number}") for number, image in enumerate(pixels, 1)
    ]


def _recovered(pixels: Pixels, record: Envelope) -> list[Picture]:
    found = []
    for place, image in enumerate(pixels):
        ssim = record.fidelity.get("ssim", [])
        figure = f"{ssim[place]:.2f}" if place < len(ssim) else ""
        parts = [f"SSIM {figure}"] if figure else []
        ranks = record.recognition.reid_rank if record.recognition is not None else []
        if place < len(ranks):
            nearer = ranks[place]
            parts.append("re-identified" if nearer == 0 else f"not re-identified: {nearer} other images are as near")
        said = f"victim {place + 1} by {record.named.attack}: {', '.join(parts) or 'no figure'}"
        alt = f"reconstruction of victim {place + 1} behind {record.named.defense or 'no defense'}; {', '.join(parts)}"
        found.append(Picture(encoded(image), alt, figure, said))
    return found


def encoded(image: Pixels) -> str:
    """(H,W,3) uint8 -> a `data:` URI: PNG for small images, JPEG of at most `LARGEST_PX` for others."""
    picture, file = Image.fromarray(image), io.BytesIO()
    if max(picture.size) <= SMALL_PX:
        picture.save(file, format="PNG", optimize=True)
        kind = "png"
    else:
        picture.thumbnail((LARGEST_PX, LARGEST_PX))
        picture.save(file, format="JPEG", quality=88)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


MOST_STRIPS, MOST_BYTES = 24, 2_000_000
"""Rows of what attacks showed, of all attacks together; and characters of their images."""


def films(run_dir: Path, records: Sequence[Envelope]) -> list[Gallery]:
    """What attacks showed while they ran: one for each attack that showed anything, a strip for each record.

    Every attack has as many strips as the others, undefended networks first; what is left out is said in its title.
    """
    logged: dict[str, list[Envelope]] = {}
    for record in records:
        if steps_path(run_dir, record.id).relative_to(run_dir).as_posix() in record.kept:
            logged.setdefault(record.named.attack, []).append(record)
    found, size = [], 0
    for attack, given in logged.items():
        ordered = sorted(given, key=lambda record: record.named.defense not in ("", UNDEFENDED))
        strips = []
        for record in ordered[: max(1, MOST_STRIPS // len(logged))]:
            strip = _film(record, frames_of(run_dir, record))
            size += sum(len(picture.source) for picture in strip.pictures)
            if size > MOST_BYTES:
                break
            strips += [strip] if strip.pictures else []
        left = f", {len(strips)} of {len(given)} shown" if len(strips) < len(given) else ""
        found += [Gallery(f"{attack}{left}", strips)] if strips else []
    return found


def _film(record: Envelope, frames: Mapping[int, Pixels]) -> Strip:
    defense = record.named.defense or UNDEFENDED
    behind = f"{record.named.attack} behind {defense}"
    pictures = [
        Picture(encoded(image), f"what {behind} showed at step {step}", str(step), f"{record.named.label}, step {step}")
        for step, image in frames.items()
    ]
    colour, marker = mark_of(defense.split(" ")[0])
    return Strip(defense, record.named.label, pictures, colour, marker)
