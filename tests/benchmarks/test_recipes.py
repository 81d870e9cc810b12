"""Ours beside plain re-implementations of the published recipes: same model, images, split and victims.

Each recipe in `recipes/` is written from its formulas: one image at a time where it searches, its optimiser, its step
count. Each test asserts that our attack, with the registry's defaults, gets an equal or better mean SSIM and mean LPIPS
on the same victims; seconds of CPU time stand side by side, and nothing is asserted about them. The client is the suite
`quick`'s: resnet10t fitted on `leaves` (4,000 private images, 8 epochs), split at layer1, undefended where the recipe
names no other; 2,500 auxiliary images.

A sanity check, in minutes on 2 cores, and the published comparison, in about an hour on one core:

    python -m pytest -n 0 tests/benchmarks/test_recipes.py
    DPBENCH_RECIPES=full python -m pytest -n 0 tests/benchmarks/test_recipes.py

`full`: the published step counts and our attacks as registered (UnSplit alone is short of its 1,000 rounds: 200), on 8
victims, or as many as DPBENCH_RECIPES_VICTIMS says. Without it each recipe takes the reduced share of its steps in
`RECIPES`, on 2 victims, the generator that both sides share is trained for 300 steps, and what is in `SMALL` of
`recipes/setting.py` is measured at the budget `small`. Decoders are judged on 64 victims in both.
DPBENCH_RECIPES_OUT=FILE appends each result as a line of JSON, as soon as it is there. DPBENCH_RECIPES_CACHE=FOLDER
keeps the client and what both sides share, so that recipes can be run one by one (`-k drag_plain`).

Not compared: PFO (known from its paper only).
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from recipes.cma_plain import cma_plain
from recipes.decoder_deepsim import decoder_deepsim
from recipes.decoder_plain import decoder_plain
from recipes.detokenizer_plain import detokenizer_plain
from recipes.dip_plain import dip_plain
from recipes.drag_plain import drag_plain
from recipes.flow_plain import flow_plain
from recipes.fora_plain import fora_plain
from recipes.fuse_plain import fuse_plain
from recipes.gan_plain import gan_plain
from recipes.glass_pp import glass_pp
from recipes.mixture_plain import mixture_plain
from recipes.reorder_plain import reorder_plain
from recipes.rmle_plain import rmle_plain
from recipes.rotation_plain import rotation_plain
from recipes.setting import CPU, FULL, Access, FewNoises, Noisy, Setting, Shuffled, Turned
from recipes.unsplit_plain import unsplit_plain
from torch import Tensor

from dpbench.contract.defense import ProtectedModel
from dpbench.machine import devices
from dpbench.machine.randomness import derive_generator
from dpbench.metrics import fidelity
from dpbench.metrics.lpips_weights import LpipsUnavailable, load_lpips

VICTIMS = int(os.environ.get("DPBENCH_RECIPES_VICTIMS", "8" if FULL else "2"))


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A published recipe, which of our attacks meets it, and its step counts."""

    run: Callable[..., Tensor]
    ours: str
    published: dict[str, Any]
    reduced: dict[str, Any]
    parameters: dict[str, Any] = dataclasses.field(default_factory=dict)
    more: Callable[[Setting], dict[str, Any]] = lambda setting: {}
    victims: int = VICTIMS
    client: type[ProtectedModel] = ProtectedModel
    access: Access = "client"
    """What is granted beside the victims' releases: the client, the undefended one, or releases of other images."""


RECIPES = {
    "decoder_plain": Recipe(decoder_plain, "decoder", {"epochs": 50}, {"epochs": 4}, victims=64),
    # it trains on LPIPS, so ours may too
    "decoder_deepsim": Recipe(
        decoder_deepsim, "decoder", {"epochs": 50}, {"epochs": 3}, {"lpips_weight": 0.1}, victims=64
    ),
    "rmle_noise_start": Recipe(rmle_plain, "rmle", {"steps": 20_000}, {"steps": 2000}),
    "rmle_zero_start": Recipe(
        rmle_plain, "rmle", {"steps": 20_000}, {"steps": 2000}, more=lambda setting: {"start": "zero"}
    ),
    "gan_plain": Recipe(
        gan_plain,
        "gan",
        {"restarts": 200, "search_steps": 100, "refine_steps": 20_000},
        {"restarts": 200, "search_steps": 10, "refine_steps": 1000},
        more=Setting.generator_network,
    ),
    "glass_pp": Recipe(
        glass_pp,
        "gan",
        {"encoder_steps": 2000, "refine_steps": 8000},
        {"encoder_steps": 200, "refine_steps": 800},
        more=Setting.generator_network,
    ),
    "unsplit_plain": Recipe(
        unsplit_plain,
        "rmle",
        {"rounds": 200},
        {"rounds": 5},
        more=lambda setting: {"untrained_head": setting.untrained_head},
    ),
    "unsplit_itself": Recipe(
        unsplit_plain,
        "unsplit",
        {"rounds": 200},
        {"rounds": 5},
        {"architecture": "resnet10t:layer1"},
        more=lambda setting: {"untrained_head": setting.untrained_head},
    ),
    "glass_pp_blocks": Recipe(
        glass_pp,
        "gan-progressive",
        {"encoder_steps": 2000, "refine_steps": 8000},
        {"encoder_steps": 200, "refine_steps": 800},
        more=Setting.generator_network,
    ),
    # on few victims LPIPS is a matter of luck
    "cma_plain": Recipe(
        cma_plain,
        "gan-cma",
        {"evaluations": 20_000},
        {"evaluations": 2000},
        more=Setting.generator_network,
        victims=32,
    ),
    "drag_plain": Recipe(
        drag_plain,
        "diffusion",
        {"steps": 250, "recurrences": 16},
        {"steps": 50, "recurrences": 4},
        more=lambda setting: setting.denoiser(VICTIMS),
    ),
    "detokenizer_plain": Recipe(
        detokenizer_plain,
        "decoder-tokens",
        {"steps": 10_000},
        {"steps": 200, "width": 256, "layers": 2, "batch": 64},
        victims=64,
    ),
    # the same access, another prior
    "dip_plain": Recipe(dip_plain, "rmle", {"steps": 20_000}, {"steps": 500}),
    "dip_itself": Recipe(dip_plain, "dip", {"steps": 20_000}, {"steps": 1000}),
    "flow_plain": Recipe(flow_plain, "flow", {"epochs": 50, "steps": 10_000}, {"epochs": 6, "steps": 250}, victims=64),
    "fora_plain": Recipe(fora_plain, "fora", {"steps": 40_000}, {"steps": 1500}, victims=64, access="releases"),
    "reorder_plain": Recipe(
        reorder_plain,
        "reorder",
        {"steps": 5000, "epochs": 50},
        {"steps": 500, "epochs": 6},
        victims=64,
        client=Shuffled,
    ),
    "mixture_plain": Recipe(mixture_plain, "mixture", {"epochs": 50}, {"epochs": 6}, victims=64, client=FewNoises),
    "rotation_plain": Recipe(
        rotation_plain,
        "mixture",
        {"epochs": 50},
        {"epochs": 6},
        victims=64,
        client=Turned,
        access="undefended client",
    ),
    "fuse_plain": Recipe(fuse_plain, "fuse", {"budget": "standard"}, {"budget": "small"}, victims=48, client=Noisy),
}


@pytest.fixture(scope="module")
def rows(request):
    """The table, which is shown at the end."""
    made: list[dict[str, Any]] = []
    yield made
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print("\n" + table(made))


@pytest.fixture(scope="module")
def setting(cache):
    return Setting(Path(os.environ.get("DPBENCH_RECIPES_CACHE", cache)))


@pytest.mark.parametrize("name", RECIPES)
def test_each_recipe(benchmark, setting, rows, name, monkeypatch):
    recipe = RECIPES[name]
    victims = recipe.victims
    counts = recipe.published if FULL else recipe.reduced
    truth = setting.victims(victims)

    found, our_seconds = setting.ours(recipe.ours, victims, recipe.client, recipe.access, **recipe.parameters)
    ours = figures(found, truth)
    arguments = recipe.more(setting) | counts
    if recipe.run is not unsplit_plain:
        arguments["generator"] = derive_generator(CPU, "recipe", name)
    monkeypatch.setattr(devices, "fast_dtype", lambda kind: None)  # the recipes know no mixed precision
    seen = setting.observe(victims, recipe.client, recipe.access)
    started = time.process_time()
    images = benchmark.pedantic(recipe.run, (seen,), arguments, rounds=1)
    seconds = time.process_time() - started
    theirs = figures(images, truth)

    row = {
        "recipe": name,
        "ours": recipe.ours,
        "mode": "full" if FULL else "reduced",
        "victims": victims,
        **{f"our_{metric}": round(value.mean().item(), 4) for metric, value in ours.items()},
        **{f"its_{metric}": round(value.mean().item(), 4) for metric, value in theirs.items()},
        "our_seconds": round(our_seconds, 1),
        "its_seconds": round(seconds, 1),
        "counts": counts,
    }
    rows.append(row)
    benchmark.extra_info.update(row)
    if path := os.environ.get("DPBENCH_RECIPES_OUT"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    better = {"ssim": torch.ge, "lpips": torch.le}
    lost = [metric for metric in theirs if not better[metric](ours[metric].mean(), theirs[metric].mean())]
    assert not lost, f"ours loses in {' and '.join(lost)}: {row}"


@torch.no_grad()
def figures(images: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """SSIM per image, and LPIPS where its weights are at hand."""
    measured = {"ssim": fidelity.ssim(images, truth)}
    try:
        load_lpips()
    except LpipsUnavailable:
        return measured
    return {**measured, "lpips": fidelity.lpips(images, truth)}


def table(rows: list[dict[str, Any]]) -> str:
    head = f"{'recipe':18}{'ours':18}{'victims':>8}{'SSIM ours':>11}{'its':>8}{'LPIPS ours':>12}{'its':>8}"
    lines = [head + f"{'s ours':>8}{'its':>9}{'ratio':>8}"]
    for row in rows:
        ratio = row["its_seconds"] / max(row["our_seconds"], 0.1)
        line = f"{row['recipe']:18}{row['ours']:18}{row['victims']:8}{row['our_ssim']:11.4f}{row['its_ssim']:8.4f}"
        line += f"{row.get('our_lpips', float('nan')):12.4f}{row.get('its_lpips', float('nan')):8.4f}"
        lines.append(line + f"{row['our_seconds']:8.1f}{row['its_seconds']:9.1f}{ratio:7.1f}x")
    return "\n".join(lines)
