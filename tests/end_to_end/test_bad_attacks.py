"""What users hand to attacks that cannot be used: one line, exit status 2, before anything is computed."""

import json
from pathlib import Path

import pytest
from tiny_suite import SUITE


@pytest.mark.parametrize(
    ("attack", "more", "words"),
    [
        ("unsplit architecture=resnet10t:layer9", (), ["unsplit: split point 'layer9'", "did you mean"]),
        ("dip steps=0", (), ["parameter steps = 0", ">= 1"]),
        ("fuse nearness=-1", (), ["nearness.0 = -1", "greater than or equal to 0"]),
        ("gan-cma function=paint", (), ["'paint'", "without `prior`"]),
        ("diffusion pipeline=pipeline", (), ["lacks unet/diffusion_pytorch_model.safetensors", "expected"]),
        ("flow", ("--only", "| flow", "--set", 'threat_models=["observe"]'), ["needs 'query'", "grants only observe"]),
    ],
)
def test_one_line_and_nothing_is_left(
    attack: str, more: tuple[str, ...], words: list[str], dpbench, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(SUITE)
    (tmp_path / "pipeline" / "unet").mkdir(parents=True)
    (tmp_path / "pipeline" / "model_index.json").write_text(json.dumps({"_class_name": "DDPMPipeline"}))
    outcome = dpbench("run", "tiny.toml", "--attack", attack, *more, "--output", tmp_path / "run")
    assert outcome.status == 2, outcome
    assert len(outcome.err.strip().splitlines()) == 1, outcome.err
    assert [word for word in words if word not in outcome.err] == []
    assert not (tmp_path / "run").exists()
