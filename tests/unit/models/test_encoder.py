"""Encoders without a classifier: a head on their final features, fitted in closed form, split like any network."""

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from torch.nn import functional as F

from dpbench.contract.images import LabelledImages
from dpbench.errors import DpbenchError
from dpbench.models import splitting, weights
from dpbench.models.adapters import encoder
from dpbench.models.adapters.linear import fit_linear
from dpbench.models.adapters.zero_shot import read_class_embeddings
from dpbench.models.spec import BackboneSpec

NAMES = ("a", "b", "c")
SIZE = 32


def clouds(count=120, width=12, apart=3.0):
    """Features of three classes, and their labels."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    centres = apart * torch.randn(3, width, generator=generator)
    return centres[labels] + torch.randn(count, width, generator=generator), labels


def coloured(count=24):
    """Images whose class is their colour."""
    labels = torch.arange(count) % 3
    images = torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 0.3
    for image, label in zip(images, labels.tolist(), strict=True):
        image[label] += 0.6
    return LabelledImages(images, labels)


def fitted(spec, private=None):
    torch.manual_seed(0)
    source = weights.choose(spec)
    model, trained = encoder.create_encoder(spec, source, image_size=SIZE, classes=3)
    return encoder.fit_head(
        model, spec, private or coloured(), image_size=SIZE, names=NAMES, fitted=not trained, progress=lambda text: None
    )


def test_a_probe_tells_clouds_apart_and_is_the_same_every_time():
    features, labels = clouds()
    layer, again = fit_linear(features, labels, 3), fit_linear(features, labels, 3)
    assert torch.equal(layer.weight, again.weight)
    logits = layer(features).detach()
    assert float((logits.argmax(1) == labels).float().mean()) > 0.97
    assert float(F.cross_entropy(logits, labels)) < 0.3, "the outputs of a regression are no logits yet"


@pytest.mark.parametrize("width", [12, 300])
def test_a_probe_is_ridge_regression_at_its_penalty_whatever_the_width(width):
    features, labels = clouds(60, width)
    layer = fit_linear(features, labels, 3)
    standard = ((features - features.mean(0)) / features.std(0, correction=0)).double()
    targets = F.one_hot(labels).double()

    def solved(penalty):
        gram = standard.T @ standard + penalty * torch.eye(width, dtype=torch.float64)
        return torch.linalg.solve(gram, standard.T @ (targets - targets.mean(0)))

    found = (layer.weight.detach().T * features.std(0, correction=0)[:, None]).double()
    candidates = [solved(10**k * 60) for k in torch.linspace(-6, 2, 17).tolist()]
    alike = [float(F.cosine_similarity(found.flatten(), one.flatten(), dim=0)) for one in candidates]
    assert max(alike) > 0.9999


def test_features_of_noise_predict_nothing_of_images_left_out():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (90,), generator=generator)
    layer = fit_linear(torch.randn(90, 60, generator=generator), labels, 3)
    logits = layer.requires_grad_(False)(torch.randn(500, 60, generator=generator))
    assert float(logits.softmax(1).max(1).values.mean()) < 0.6, "sure of nothing it knows"


@pytest.mark.parametrize("bad", [torch.full((6, 4), torch.nan), torch.ones(6, 4)])
def test_features_that_say_nothing_are_refused(bad):
    with pytest.raises(DpbenchError, match="no probe can be fitted"):
        fit_linear(bad, torch.arange(6) % 3, 3)


@pytest.mark.parametrize("head", ["probe", "knn"])
@pytest.mark.parametrize(("name", "point"), [("test_vit", "blocks.1"), ("test_convnext", "stages.1")])
def test_an_encoder_with_a_head_is_cut_and_classifies(name, point, head):
    spec = BackboneSpec(name=name, weights="fit", epochs=0, head=head)
    model = fitted(spec)
    private = coloured()
    state = dict(model.state_dict())
    again = encoder.create_network(spec, image_size=SIZE, classes=3, state=state)
    split = splitting.split_model(again, point, image_shape=(3, SIZE, SIZE), classes=3, name=name)
    with torch.no_grad():
        logits = split(private.images)
    assert float((logits.argmax(1) == private.labels).float().mean()) > 0.9


def test_a_small_encoder_is_fitted_first_and_loses_its_classifier():
    model = fitted(BackboneSpec(name="test_vit", weights="fit", epochs=1, learning_rate=1e-3, head="probe"))
    assert isinstance(model.head, torch.nn.Identity)
    assert model(torch.rand(2, 3, SIZE, SIZE)).shape == (2, 3)


def test_weights_without_a_classifier_get_a_probe_and_others_keep_theirs(tmp_path):
    for classes, head in ((0, "probe"), (3, "auto")):
        path = tmp_path / f"{classes}.safetensors"
        safetensors.torch.save_file(timm.create_model("test_vit", num_classes=classes).state_dict(), path)
        spec = BackboneSpec(name="test_vit", weights=str(path))
        assert encoder.head_of(spec, image_size=SIZE, classes=3) == head
    for name, chosen, head in (("test_vit", "fit", "auto"), ("vit_small_patch14_dinov2", "pretrained", "probe")):
        spec = BackboneSpec(name=name, weights=chosen)
        assert encoder.head_of(spec, image_size=SIZE, classes=3) == head


def test_the_weights_of_a_file_are_left_as_they_are(tmp_path):
    truth = timm.create_model("test_vit", num_classes=5)
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(truth.state_dict(), path)
    model = fitted(BackboneSpec(name="test_vit", weights=str(path), head="probe"))
    assert torch.equal(model.blocks[0].attn.qkv.weight, truth.blocks[0].attn.qkv.weight)


def embeddings_of(model, private):
    """The mean final features of each class: what a text tower would have to give."""
    features = model.forward_head(model.forward_features((private.images - 0.5) / 0.5))
    return torch.stack([features[private.labels == label].mean(0) for label in range(3)]).detach()


@pytest.mark.parametrize("kind", ["npz", "safetensors", "by name"])
def test_classes_given_as_embeddings_need_no_fitting(tmp_path, kind):
    private = coloured()
    truth = timm.create_model("test_vit", num_classes=0).eval()
    weights_file, path = tmp_path / "weights.safetensors", tmp_path / "classes"
    safetensors.torch.save_file(truth.state_dict(), weights_file)
    given = embeddings_of(truth, private)
    given -= given.mean(0)
    if kind == "npz":
        with path.open("wb") as file:
            np.savez(file, given.numpy())
    elif kind == "safetensors":
        safetensors.torch.save_file({"embeddings": given}, path)
    else:
        safetensors.torch.save_file({name: given[i].clone() for i, name in enumerate(NAMES)}, path)
    spec = BackboneSpec(name="test_vit", weights=str(weights_file), head="zero-shot", class_embeddings=str(path))
    spec = spec.model_copy(update={"files": encoder.files_of(spec, NAMES)})
    model = fitted(spec, private)
    state = dict(model.state_dict())
    again = encoder.create_network(spec, image_size=SIZE, classes=3, state=state)
    torch.testing.assert_close(again.dpbench_head.readout.classes, F.normalize(given, dim=1))
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(DpbenchError, match=r"changed since the run was planned|damaged"):
        fitted(spec, private)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"embeddings": torch.rand(4, 8)}, r"shape \(4, 8\), and the data has 3 classes"),
        ({"a": torch.rand(8), "b": torch.rand(8)}, "none for the class 'c'"),
        ({"a": torch.rand(8), "b": torch.rand(8), "c": torch.rand(9)}, "several widths"),
        ({"embeddings": torch.full((3, 8), torch.nan)}, "not finite"),
    ],
)
def test_embeddings_of_other_classes_are_refused(tmp_path, arrays, said):
    path = tmp_path / "classes.safetensors"
    safetensors.torch.save_file(arrays, path)
    with pytest.raises(DpbenchError, match=said):
        read_class_embeddings(path, NAMES)


def test_embeddings_that_are_no_file_of_arrays_are_refused(tmp_path):
    path = tmp_path / "classes.npz"
    with pytest.raises(DpbenchError, match="there is no file"):
        read_class_embeddings(path, NAMES)
    path.write_text("no arrays")
    with pytest.raises(DpbenchError, match="damaged or of another kind"):
        read_class_embeddings(path, NAMES)


def test_embeddings_of_another_width_are_refused(tmp_path):
    path = tmp_path / "classes.safetensors"
    safetensors.torch.save_file({"embeddings": torch.rand(3, 8)}, path)
    spec = BackboneSpec(name="test_vit", weights="fit", epochs=0, head="zero-shot", class_embeddings=str(path))
    with pytest.raises(DpbenchError, match="are 8 wide, and test_vit gives 64"):
        fitted(spec)


def test_zero_shot_and_its_file_belong_together():
    with pytest.raises(ValueError, match="belong together"):
        BackboneSpec(name="test_vit", head="zero-shot")


def test_old_identities_stay():
    assert "head" not in BackboneSpec(name="resnet10t").model_dump(mode="json")
    spec = BackboneSpec(name="x", head="zero-shot", class_embeddings="a.npz", files={"class_embeddings": "00"})
    assert spec.identity("")["class_embeddings"] == "file:00"
