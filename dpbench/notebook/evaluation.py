"""`dpbench.evaluate`: what one holds, measured."""

from __future__ import annotations

import atexit
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpbench.contract.threat import UNDEFENDED, Budget, ThreatModel
from dpbench.errors import DpbenchError
from dpbench.executors.executor import Means
from dpbench.executors.known import Here
from dpbench.notebook.given_images import given_images
from dpbench.notebook.given_network import given_network
from dpbench.notebook.held import Held, holding
from dpbench.notebook.progress_bar import ProgressBar
from dpbench.notebook.results import Results
from dpbench.protocols.known import DEFAULT
from dpbench.running.options import Options
from dpbench.running.runner import execute, make_plan
from dpbench.suite.ensembles import ENSEMBLES, NEWEST, floors
from dpbench.suite.files import validated
from dpbench.suite.suite import PluginEntry, Suite

if TYPE_CHECKING:
    from torch import nn

THREAT_MODELS: list[ThreatModel] = ["static", "query", "weights"]


def evaluate(
    defense: Held | Sequence[Held],
    *,
    backbone: str | nn.Module = "resnet10t",
    split: str | int = 0,
    images: Any = "leaves",
    attacks: str | Sequence[Held] = "ensemble-v1.1",
    victims: int = 16,
    budget: Budget = "small",
    image_size: int | None = None,
    fit: bool | None = None,
    epochs: int = 6,
    seed: int = 0,
    output: str | Path | None = None,
    device: str = "auto",
    progress: bool | None = None,
) -> Results:
    """Measure a defense that one holds, beside the undefended model.

        >>> class Rounded(dpbench.FeatureTransform):
        ...     name = "rounded"
        ...
        ...     def transform(self, features, state, *, generator):
        ...         return features.round()
        >>> class Grey(dpbench.Attack):
        ...     name = "grey"
        ...
        ...     def reconstruct(self, seen, *, generator):
        ...         return torch.full((len(seen.released), *seen.image_shape), 0.5)
        >>> given = {"images": (torch.rand(100, 3, 16, 16), torch.arange(100) % 2), "attacks": [Grey], "victims": 4}
        >>> results = dpbench.evaluate(Rounded, backbone="resnet10t", split="layer1", epochs=1, **given)
        >>> sorted(results.board["defense"].unique())
        ['none', 'rounded']

    Classes and instances run in this process, with no border between them and what judges them, and are measured anew
    each time: the figures are for whoever holds them. For others, put the class into a file (`mine.py:Rounded`), which
    runs in a process of its own.

    Args:
        defense: a class derived from `dpbench.Defense`, an instance with its parameters, a name,
            `path/to/file.py:Name`, or several of these.
        backbone: timm's name, or a module that takes images in [0,1] and gives logits: put its normalisation into it.
        split: the module whose output leaves the client; of a timm model also the number of a stage, from 0.
        images: a folder of class folders, the name of a data set, images (N,3,S,S) in [0,1] with labels (N,), or a data
            set of PyTorch.
        attacks: a pinned ensemble, or attacks as defenses are given.
        victims: test images that the attacks reconstruct.
        budget: what the attacks may spend.
        image_size: side in pixels, by default 32; images in memory keep theirs.
        fit: fit the backbone on the images in any case; else a module keeps its weights, and a timm model takes those
            at hand, if there are any.
        epochs: of fitting.
        seed: of everything that is drawn.
        output: the run directory; by default one that ends with this Python.
        device: auto, cpu, cuda or mps.
        progress: show a bar; by default on a terminal and in a notebook.

    Raises:
        DpbenchError: something that cannot be measured; a cell that fails is a row of the board.
    """
    if not isinstance(victims, int) or victims < 1:
        raise DpbenchError(f"victims = {victims!r}; expected a whole number, 1 or more")
    given = [defense] if isinstance(defense, str | type) or not isinstance(defense, Sequence) else list(defense)
    ensemble, named = _attacks(attacks)
    with ExitStack() as stack:
        dataset = stack.enter_context(given_images(images, victims=victims, image_size=image_size))
        network = stack.enter_context(given_network(backbone, split, fit=bool(fit), epochs=epochs))
        defenses, attackers = stack.enter_context(holding(given, named))
        others = [PluginEntry(name=UNDEFENDED), *(entry for entry in defenses if entry.name != UNDEFENDED)]
        content = {
            "name": "evaluation",
            "seeds": [seed],
            "threat_models": THREAT_MODELS,
            "budget": budget,
            "victims": victims,
            "dataset": dataset.model_copy(update={"seed": seed}),
            "backbones": [network],
            "defenses": others,
            "ensemble": ensemble,
            "attacks": attackers,
        }
        suite = validated(Suite, content, origin="evaluate")
        place = Path(output) if output is not None else _place()
        plan = make_plan(DEFAULT, suite, Options(output=place))
        with ProgressBar(plan, progress) as bar:
            records = execute(plan, device=device, watcher=bar, means=Means(executor=Here.name))
        DEFAULT.store.restore(place, records)
    return Results(place)


def _place() -> Path:
    """A run directory that nobody named; it goes when Python ends."""
    folder = tempfile.TemporaryDirectory(prefix="dpbench-evaluation-")
    atexit.register(folder.cleanup)
    return Path(folder.name) / "evaluation"


def _attacks(given: str | Sequence[Held]) -> tuple[str | None, list[Held]]:
    """A pinned ensemble by name, or attacks; with these always a floor, which makes the zero of the scale."""
    if isinstance(given, str) and given in ENSEMBLES:
        return given, []
    named: list[Held] = [given] if isinstance(given, str | type) or not isinstance(given, Sequence) else list(given)
    if not named:
        raise DpbenchError(f"attacks is empty; name some, or an ensemble: {', '.join(ENSEMBLES)}")
    has_floor = any(isinstance(one, str) and one in floors() for one in named)
    if all(isinstance(one, str) and one in floors() for one in named):
        raise DpbenchError(f"attacks are floors alone, which say nothing of a defense; add one, or name {NEWEST!r}")
    return None, named if has_floor else ["mean-image", *named]
