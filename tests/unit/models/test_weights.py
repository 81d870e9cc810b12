"""Where weights come from: a file, timm, a package, or fitted; decided without a network."""

import os

import pytest
import safetensors.torch
import timm
import torch
from huggingface_hub import constants

from dpbench.contract.spec import PluginSpec
from dpbench.data.spec import DatasetSpec
from dpbench.errors import DpbenchError
from dpbench.models import backbones, carriers, weights
from dpbench.models.spec import BackboneSpec
from dpbench.suite.cell import CellSpec


def test_without_weights_at_hand_auto_fits(tmp_path, monkeypatch):
    monkeypatch.setattr(weights.huggingface_hub, "try_to_load_from_cache", lambda repo, name: None)
    monkeypatch.setattr(weights.torch.hub, "get_dir", lambda: str(tmp_path))
    assert weights.choose(BackboneSpec(name="resnet10t")) == weights.WeightsSource("fitted")


def test_fit_never_takes_pretrained_weights(monkeypatch):
    monkeypatch.setattr(weights, "_at_hand", lambda config: True)
    assert not weights.choose(BackboneSpec(name="resnet10t", weights="fit")).pretrained
    chosen = weights.choose(BackboneSpec(name="resnet10t"))
    assert (chosen.label, chosen.classes) == ("pretrained:resnet10t.c3_in1k", 1000)


def test_pretrained_is_refused_where_timm_has_none():
    with pytest.raises(DpbenchError, match=r"timm has no pre-trained weights for 'efficientnet_b8'.*weights = .fit."):
        weights.choose(BackboneSpec(name="efficientnet_b8", weights="pretrained"))


def test_weights_in_the_cache_of_the_hub_are_found_and_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        truth = timm.create_model("resnet10t")
    repository = tmp_path / "models--timm--resnet10t.c3_in1k"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    safetensors.torch.save_file(truth.state_dict(), snapshot / "model.safetensors")
    spec = BackboneSpec(name="resnet10t")
    assert weights.choose(spec).pretrained
    same = backbones.create_backbone(spec, image_size=32, classes=1000, pretrained=True)
    assert torch.equal(same.fc.weight, truth.fc.weight)
    other = backbones.create_backbone(spec, image_size=32, classes=7, pretrained=True)
    assert torch.equal(other.conv1[0].weight, truth.conv1[0].weight)
    assert other.fc.weight.shape == (7, 512)


def test_a_carrier_comes_after_timm_s_own_file_and_before_a_download(monkeypatch):
    spec = BackboneSpec(name="mobilenetv2_100")
    carried = f"carrier:{carriers.MOBILENET_V2.requirement}"
    monkeypatch.setattr(weights, "_at_hand", lambda config: True)
    assert weights.choose(spec).label == "pretrained:mobilenetv2_100.ra_in1k"
    monkeypatch.setattr(weights, "_at_hand", lambda config: False)
    wanted = spec.model_copy(update={"weights": "pretrained"})
    assert weights.choose(spec).label == weights.choose(wanted).label == carried
    assert weights.choose(spec.model_copy(update={"weights": "fit"})).label == "fitted"
    monkeypatch.setattr(weights, "at_hand", lambda carrier: False)
    assert weights.choose(spec).label == "fitted"
    assert weights.choose(wanted).pretrained


def test_a_tag_asks_for_timm_s_own_file(monkeypatch):
    monkeypatch.setattr(weights, "_at_hand", lambda config: False)
    assert weights.choose(BackboneSpec(name="mobilenetv2_100.ra_in1k")).label == "fitted"


@pytest.fixture
def file_of(tmp_path):
    """Writes a network with random weights: `file_of("resnet10t", 5)` -> its spec and the network."""

    def write(name, classes, folder=tmp_path, **arguments):
        torch.manual_seed(2)
        truth = timm.create_model(name, num_classes=classes, **arguments)
        path = folder / f"{name}.safetensors"
        safetensors.torch.save_file(truth.state_dict(), path)
        return BackboneSpec(name=name, weights=str(path)), truth

    return write


def made(spec, *, image_size=32, classes=5):
    return weights.create(spec, weights.choose(spec), image_size=image_size, classes=classes)


@pytest.mark.parametrize("name", ["resnet10t", "test_convnext", "test_efficientnet"])
def test_a_file_is_loaded_whole(name, file_of):
    spec, truth = file_of(name, 5)
    model, fits = made(spec)
    assert fits
    assert not model.training
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(images), truth.eval()(images))
    assert "state_dict" not in model.pretrained_cfg


def test_a_classifier_for_other_classes_is_replaced_and_to_be_fitted(file_of):
    spec, truth = file_of("resnet10t", 5)
    model, fits = made(spec, classes=7)
    assert not fits
    assert model.fc.weight.shape == (7, 512)
    assert torch.equal(model.conv1[0].weight, truth.conv1[0].weight)


def test_a_file_without_classifier_gets_one_to_be_fitted(file_of):
    spec, _ = file_of("resnet10t", 0)
    model, fits = made(spec)
    assert not fits
    assert model.fc.weight.shape == (5, 512)


def test_position_embeddings_are_resized(file_of):
    spec, truth = file_of("test_vit", 5)
    model, fits = made(spec, image_size=64)
    assert fits
    assert model.pos_embed.shape[1] < truth.pos_embed.shape[1]
    assert torch.equal(model.blocks[0].attn.qkv.weight, truth.blocks[0].attn.qkv.weight)


def test_weights_of_another_architecture_are_refused_by_key(file_of):
    spec, _ = file_of("resnet10t", 5)
    with pytest.raises(
        DpbenchError, match=r"do not fit backbone 'test_vit': missing: cls_token.*; unexpected: bn1.bias"
    ):
        made(spec.model_copy(update={"name": "test_vit"}), image_size=160)
    with pytest.raises(DpbenchError, match=r"do not fit backbone 'resnet14t': missing: layer1\.0.*and \d+ more"):
        made(spec.model_copy(update={"name": "resnet14t"}))
    # where only the classifier could be left out, nothing else may be
    with pytest.raises(DpbenchError, match="do not fit backbone 'resnet14t'"):
        made(spec.model_copy(update={"name": "resnet14t"}), classes=7)


def test_normalisation_can_be_told(file_of):
    spec, _ = file_of("resnet10t", 5)
    overlay = {"pretrained_cfg_overlay": {"mean": [0.1, 0.2, 0.3], "std": [1.0, 1.0, 1.0]}}
    model, fits = made(spec.model_copy(update={"args": overlay}))
    assert fits
    assert weights.backbones.normalisation(model).mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])


def cell_with(spec, **more):
    return CellSpec(
        dataset=DatasetSpec(),
        data_fingerprint="f" * 16,
        backbone=spec,
        split_point="layer1",
        defense=PluginSpec(name="none"),
        attack=PluginSpec(name="rmle"),
        threat_model="weights",
        victims=4,
        **more,
    )


def test_a_file_is_known_by_its_content_not_its_place(file_of, tmp_path):
    here, _ = file_of("resnet10t", 5)
    (tmp_path / "moved").mkdir()
    there, _ = file_of("resnet10t", 5, folder=tmp_path / "moved")
    assert weights.fingerprint(here) == weights.fingerprint(there)
    assert weights.choose(here).label == f"file:{weights.fingerprint(here)[:16]}" == weights.choose(there).label
    first, second = (cell_with(spec, weights_fingerprint=weights.fingerprint(spec)) for spec in (here, there))
    assert first.id == second.id
    assert first.backbone_identity == second.backbone_identity
    assert first.id != cell_with(here, weights_fingerprint="0" * 64).id


def test_ids_of_other_cells_are_those_of_version_0_2_0():
    spec = BackboneSpec(name="resnet10t", weights="pretrained")
    assert cell_with(spec).id == "resnet10t-layer1-none-rmle-weights-s0-3bfa85f082"


def test_a_file_that_changes_during_a_run_is_refused(file_of):
    spec, _ = file_of("resnet10t", 5)
    with pytest.raises(DpbenchError, match="have changed since the run was planned"):
        weights.choose(spec, expected="0" * 64)


def test_a_missing_file_says_what_else_could_be_meant():
    with pytest.raises(DpbenchError, match=r"no weights file 'pretraind'.*or one of auto, pretrained, fit"):
        weights.choose(BackboneSpec(name="resnet10t", weights="pretraind"))


def test_a_file_swapped_between_plan_and_load_is_refused_whatever_its_dates(file_of, tmp_path):
    spec, _ = file_of("resnet10t", 5)
    source = weights.choose(spec, expected=weights.fingerprint(spec))
    path, before = spec.weights_file, spec.weights_file.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    (tmp_path / "other").write_bytes(content)
    os.utime(tmp_path / "other", ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(tmp_path / "other", path)
    with pytest.raises(DpbenchError, match="have changed since the run was planned; run again"):
        source.read()
