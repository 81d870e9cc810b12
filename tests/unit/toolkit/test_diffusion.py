"""Guided diffusion: which models it takes, and what it says of those that it does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from dpbench_attacks._diffusion_models import Denoiser, linear_alphas, small_unet
from dpbench_attacks.diffusion import GuidedDiffusion
from tiny_observation import observed
from torch import nn

from dpbench.contract.defense import ProtectedModel
from dpbench.errors import DpbenchError
from dpbench.machine.randomness import derive_generator
from dpbench.plugins.configuring import configure
from dpbench.testing.tiny import CPU, smooth

DECODER = {"decoder_steps": 10, "decoder_width": 16, "decoder_blocks": 1, "decoder_batch_size": 16}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diffusers import DDIMScheduler

    folder = tmp_path_factory.mktemp("pipeline")
    network: Any = small_unet((3, 16, 16), 8)
    network.save_pretrained(folder / "unet")
    DDIMScheduler().save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text("{}")
    return folder


def test_a_local_pipeline_guides(pipeline: Path) -> None:
    attack = configure(GuidedDiffusion, {"pipeline": str(pipeline), "steps": 3, **DECODER})
    assert attack == configure(GuidedDiffusion, {"pipeline": str(pipeline / "model_index.json"), "steps": 3, **DECODER})
    attack.assert_at_hand()
    victims = smooth(3, seed="victims")
    seen = observed(ProtectedModel, victims, smooth(96, seed="auxiliary"))
    images = attack.reconstruct(seen, generator=derive_generator(CPU, "attack"))
    assert images.shape == victims.shape
    assert float(seen.notes["final_feature_loss"]) <= float(seen.notes["first_feature_loss"])  # type: ignore[arg-type]


def test_a_model_of_another_size_is_a_line(pipeline: Path) -> None:
    attack = configure(GuidedDiffusion, {"pipeline": str(pipeline), **DECODER})
    victims = smooth(2, seed="victims", shape=(3, 8, 8))
    seen = observed(ProtectedModel, victims, smooth(16, seed="auxiliary", shape=(3, 8, 8)))
    seen = type(seen)(**{**vars(seen), "image_shape": (3, 8, 8)})
    with pytest.raises(DpbenchError, match=r"expected 3 and 3, of \[8, 8\]"):
        attack.reconstruct(seen, generator=derive_generator(CPU, "attack"))


def test_other_files_are_refused_when_a_run_is_planned(pipeline: Path, tmp_path: Path) -> None:
    for name in ("unet", "scheduler"):
        (tmp_path / name).mkdir()
        for file in (pipeline / name).iterdir():
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "unet" / "config.json").write_text(json.dumps({"_class_name": "UNet2DConditionModel"}))
    with pytest.raises(DpbenchError, match="only models of pixels"):
        configure(GuidedDiffusion, {"pipeline": str(tmp_path)}).assert_fits((3, 16, 16))
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(DpbenchError, match=r"lacks unet/diffusion_pytorch_model\.safetensors"):
        configure(GuidedDiffusion, {"pipeline": str(tmp_path)})
    with pytest.raises(DpbenchError, match="without the rest"):
        configure(GuidedDiffusion, {"unet_config": str(pipeline / "unet" / "config.json")}).assert_at_hand()


class Constant(nn.Module):
    """Predicts the same image, whatever it sees."""

    def forward(self, noisy: torch.Tensor, times: torch.Tensor) -> Any:
        return type("Predicted", (), {"sample": torch.full_like(noisy, 0.25)})


@pytest.mark.parametrize("predicts", ["epsilon", "sample", "v_prediction"])
def test_what_is_split_is_what_was_mixed(predicts: str) -> None:
    denoiser = Denoiser(Constant(), linear_alphas(), predicts)
    noisy = torch.randn(2, 3, 8, 8, generator=derive_generator(CPU, "noisy"))
    image, noise = denoiser.split(noisy, 400)
    alpha = denoiser.alphas[400]
    torch.testing.assert_close(alpha.sqrt() * image + (1 - alpha).sqrt() * noise, noisy)
