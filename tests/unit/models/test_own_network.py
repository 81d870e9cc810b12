"""A network of one's own, `my_net.py:build`: made, looked at, split; what is of no use is one clear line."""

import pytest
import safetensors.torch
import torch

from dpbench.errors import DpbenchError
from dpbench.models import splitting, weights
from dpbench.models.adapters import builder, encoder
from dpbench.models.spec import BackboneSpec

NET = """
import torch
from torch import nn
from parts import WIDTH

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, WIDTH, 3, stride=2, padding=1), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1), nn.ReLU())
        self.out = nn.Linear(WIDTH, classes) if classes else nn.Identity()

    def forward(self, images):
        return self.out(self.body(self.stem(images)).mean((2, 3)))

def build(classes=5):
    return Net(classes)

def ten():
    return Net(10)

def raises():
    raise KeyError("no such block")

def nothing():
    return None

class Wrong(Net):
    def forward(self, images):
        return self.stem(images), images

class Named(Net):
    def forward(self, images):
        return {"last_hidden_state": self.body(self.stem(images)), "logits": super().forward(images)}

class Draws(Net):
    def forward(self, images):
        return super().forward(images) + torch.rand(())

class Forgets(Net):
    def __init__(self, classes):
        super().__init__(classes)
        self.secret = torch.randn(WIDTH)

    def forward(self, images):
        return self.out(self.body(self.stem(images)).mean((2, 3)) * self.secret)

class Sized(Net):
    def __init__(self, classes):
        super().__init__(classes)
        self.out = nn.Linear(WIDTH * 64, classes)

    def forward(self, images):
        return self.out(self.body(self.stem(images)).flatten(1))

class Centred(Net):
    def forward(self, images):
        return super().forward(images) - super().forward(images).mean(0)

class Endless(Net):
    def forward(self, images):
        return super().forward(images) / 0

class Complex(Net):
    def forward(self, images):
        return super().forward(images).to(torch.complex64)

class Unknown(Net):
    def forward(self, images):
        return {"prediction": super().forward(images)}

class Masked(Net):
    def forward(self, images, mask):
        return super().forward(images)

class Dropping(Net):
    def forward(self, images):
        return nn.functional.dropout(super().forward(images), 0.5)

class Halves(Net):
    def forward(self, images):
        return super().forward(images).half()

def stated(mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2)):
    net = Net(4)
    net.default_cfg = {"mean": mean, "std": std}
    return net

def told(): return stated("imagenet")
def two_channels(): return stated((0.5, 0.5), (0.2, 0.2))
def flat(): return stated(std=(0.2, 0.2, 0.0))
def text():
    net = Net(4)
    net.default_cfg = "imagenet"
    return net

def training():
    net = nn.Sequential(Net(4), nn.Dropout(0.5))
    return net.train()

def deep(depth, *, width, classes): return Net(classes)
def centred(): return Centred(4)
def endless(): return Endless(4)
def imaginary(): return Complex(4)
def unknown(): return Unknown(4)
def masked(): return Masked(4)
def dropping(): return Dropping(4)
def halves(classes): return Halves(classes)
def leaves(): raise SystemExit(3)
def wrong(): return Wrong(4)
def named(classes): return Named(classes)
def draws(): return Draws(4)
def forgets(): return Forgets(4)
def sized(): return Sized(4)
def maps(): return Net(0).stem
number = 3
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "my_net.py").write_text(NET)
    (tmp_path / "parts.py").write_text("WIDTH = 8\n")
    return tmp_path


def spec_of(folder, function="build", **more):
    spec = BackboneSpec(name=f"{folder}/my_net.py:{function}", **more)
    return spec.model_copy(update={"files": builder.files_of(spec)})


def head_of(spec, classes=4, size=32):
    return encoder.head_of(spec, image_size=size, classes=classes)


def test_it_is_split_by_its_modules_and_takes_images_as_they_are(folder):
    spec = spec_of(folder)
    assert head_of(spec) == "auto"
    model, fits = weights.create(spec, weights.choose(spec), image_size=32, classes=4)
    assert fits
    split = splitting.split_model(model, 0, image_shape=(3, 32, 32), classes=4, name=spec.name)
    assert split.split_point == "stem"
    images = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(split(images), model(images))
        torch.testing.assert_close(split.client_head(images), model.stem(images))


def test_features_get_a_probe_and_logits_none(folder):
    assert head_of(spec_of(folder, "ten")) == "probe"
    assert head_of(spec_of(folder, "maps")) == "probe"
    assert head_of(spec_of(folder, "named")) == "auto"
    spec = spec_of(folder, "named", head="probe")
    network = encoder.create_network(spec, image_size=32, classes=4)
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 4)


def test_what_is_in_training_is_put_to_work_and_halves_are_read(folder):
    assert head_of(spec_of(folder, "training")) == "auto"
    assert head_of(spec_of(folder, "stated")) == "auto"
    for head in ("probe", "auto"):
        spec = spec_of(folder, "halves", head=head)
        assert head_of(spec) == head
        network = encoder.create_network(spec, image_size=32, classes=4)
        split = splitting.split_model(network, "stem", image_shape=(3, 32, 32), classes=4, name="x")
        assert split(torch.rand(2, 3, 32, 32)).dtype == (torch.float32 if head == "probe" else torch.float16)


def test_its_identity_is_its_content_and_not_its_place(folder, tmp_path):
    spec = spec_of(folder)
    identity = spec.identity("")
    assert identity["name"] == "my_net.py:build"
    assert set(identity["files"]) == {"my_net.py", "parts.py"}
    assert str(tmp_path) not in str(identity)
    (folder / "parts.py").write_text("WIDTH = 9\n")
    with pytest.raises(DpbenchError, match=r"my_net.py changed since the run was planned"):
        builder.build(spec, image_size=32, classes=4)
    assert builder.build(spec_of(folder), image_size=32, classes=4).stem[0].out_channels == 9


def test_weights_of_a_file_are_loaded_and_must_fit(folder):
    spec = spec_of(folder)
    truth = builder.build(spec, image_size=32, classes=4)
    path = folder / "weights.pth"
    wrapped = {f"module._orig_mod.{name}": value for name, value in truth.state_dict().items()}
    torch.save({"state_dict": wrapped, "epoch": 3}, path)
    named = spec.model_copy(update={"weights": str(path)})
    assert head_of(named) == "auto"
    model, fits = weights.create(named, weights.choose(named), image_size=32, classes=4)
    assert fits
    assert torch.equal(model.out.weight, truth.out.weight)
    safetensors.torch.save_file({"other": torch.zeros(3)}, path)
    with pytest.raises(DpbenchError, match=r"do not fit backbone .*missing: stem.0.weight.*under its names"):
        head_of(named)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("raises", r"raises raised KeyError: 'no such block' .*; fix my_net.py"),
        ("nothing", "gives NoneType; expected an nn.Module"),
        ("leaves", "leaves raised SystemExit: 3"),
        ("deep", r"deep needs depth, width; .*args = \{ depth = \.\.\. \}"),
        ("centred", "gives something else for an image when others stand beside it"),
        ("endless", "gives values that are NaN or infinite"),
        ("imaginary", "torch.complex64 for 3 images; expected one tensor of floats"),
        ("unknown", "gives a dict for 3 images; expected one tensor of floats"),
        ("masked", "does not take images of 32 x 32: TypeError: .*'mask'"),
        ("dropping", "gives something else when it is called again"),
        ("told", "has the default_cfg .*; expected {'mean'"),
        ("two_channels", "has the default_cfg"),
        ("flat", "each std above 0"),
        ("text", "has the default_cfg 'imagenet'"),
        ("wrong", "gives a tuple for 3 images; expected one tensor of floats"),
        ("draws", "gives something else when it is called again"),
        ("forgets", "gives something else when it is built again with the same weights"),
        ("bild", "unknown function in my_net.py 'bild'; did you mean 'build'"),
        ("number", "number is no function"),
        ("", "names no function"),
    ],
)
def test_what_is_of_no_use_is_refused_in_a_line(folder, function, said):
    with pytest.raises(DpbenchError, match=said):
        head_of(spec_of(folder, function))


def test_images_of_another_size_are_refused(folder):
    assert head_of(spec_of(folder, "sized")) == "auto"
    with pytest.raises(DpbenchError, match=r"does not take images of 48 x 48: RuntimeError: .*dataset.image_size"):
        head_of(spec_of(folder, "sized"), size=48)


def test_a_file_that_is_none_or_does_not_import_is_refused(folder):
    with pytest.raises(DpbenchError, match=r"there is no file .*gone\.py"):
        head_of(BackboneSpec(name=f"{folder}/gone.py:build"))
    (folder / "broken.py").write_text("import gone_for_good\n")
    with pytest.raises(DpbenchError, match=r"does not import: ModuleNotFoundError: .*; fix broken.py"):
        head_of(BackboneSpec(name=f"{folder}/broken.py:build"))


def test_logits_of_other_classes_are_not_trained(folder):
    for given in ({"weights": "fit"}, {"head": "classifier"}):
        with pytest.raises(DpbenchError, match=r"gives 10 logits for 4 classes"):
            head_of(spec_of(folder, "ten", **given))
    with pytest.raises(DpbenchError, match="trains a network by its own logits"):
        head_of(spec_of(folder, "ten", weights="fit", head="probe"))
