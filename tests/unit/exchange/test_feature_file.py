"""Files of features: what is written is what is read, what was changed is found, and nothing secret is in them."""

import json
import textwrap

import pytest
import safetensors
import safetensors.torch
import torch
from tiny_suite import tiny_suite

from dpbench.errors import DpbenchError
from dpbench.exchange.exchange import export_features
from dpbench.exchange.feature_file import METADATA_KEY, read_features, write_features
from dpbench.exchange.feature_header import Cut, FeatureHeader, Network, features_digest, layout_of

NETWORK = Network(
    backbone="resnet10t",
    backbone_args={"drop_rate": 0.1},
    image_size=32,
    split_point="layer1",
    shape=(4, 3, 3),
    layout="NCHW",
    packed=(),
    classes=3,
    class_names=("a", "b", "c"),
    weights_hash="0123456789abcdef",
)


FEATURES = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0))


LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def write(path, features=FEATURES, labels=LABELS, network=NETWORK):
    return write_features(path, features, labels, network=network, defense="gaussian", defense_version=1)


def forge(path, *, features=FEATURES, labels=LABELS, written=None, **changes):
    """A file as a stranger could make it: with a digest that matches, whatever it holds; `written` comes on top."""
    about = {**dict(NETWORK), "defense": "gaussian", "defense_version": 1, "count": 6, **changes}
    header = FeatureHeader.model_construct(**{"format_version": 1, **about})
    tensors = {"features": features, "labels": labels}
    content = {**header.model_dump(mode="json"), "digest": features_digest(header, tensors), **(written or {})}
    safetensors.torch.save_file(tensors, path, metadata={METADATA_KEY: json.dumps(content)})
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "shared.safetensors"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_round_trip(path, dtype):
    written = write(path, FEATURES.to(dtype))
    shared = read_features(path, NETWORK)
    assert shared.header == written
    assert (shared.header.count, shared.header.defense) == (6, "gaussian")
    assert torch.equal(shared.features, FEATURES.to(dtype))
    assert shared.features.dtype == dtype
    assert torch.equal(shared.labels, LABELS)
    assert shared.labels.dtype == torch.int64


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool])
def test_integers_go_as_they_were_sent_and_say_what_they_mean(path, dtype):
    integers = (FEATURES.abs() * 10).to(dtype)
    header = write_features(
        path, integers, LABELS, network=NETWORK, defense="mine", defense_version=1, quantisation=(0.5, 3.0)
    )
    assert (header.format_version, header.scale, header.zero_point) == (2, 0.5, 3.0)
    shared = read_features(path, NETWORK)
    assert shared.features.dtype == dtype
    assert torch.equal(shared.features, integers)
    assert torch.equal(shared.meant(shared.features), (integers.float() - 3) * 0.5)


def test_a_file_of_floats_is_what_it_was_before_integers_were_taken(path):
    write(path)
    with safetensors.safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()[METADATA_KEY])
    assert header["format_version"] == 1
    assert not {"scale", "zero_point"} & set(header)
    shared = read_features(path)
    assert shared.meant(shared.features) is shared.features


def test_classes_without_names_and_packed_features(path):
    packed = ((1, 4, 3), (4, 6))
    network = NETWORK.model_copy(update={"class_names": (), "shape": (36,), "layout": "flat", "packed": packed})
    write(path, FEATURES.flatten(1), network=network)
    assert read_features(path, network).header.packed == packed


def test_features_that_are_no_block_of_memory(path):
    channels_last = FEATURES.contiguous(memory_format=torch.channels_last)
    write(path, channels_last)
    assert torch.equal(read_features(path).features, FEATURES)


@pytest.mark.parametrize(
    ("shape", "layout"),
    [((64, 8, 8), "NCHW"), ((8, 8, 64), "NHWC"), ((65, 192), "NLC"), ((100,), "flat"), ((2, 8, 8, 8), "other")],
)
def test_layouts(shape, layout):
    assert layout_of(shape) == layout


def test_nothing_is_overwritten(path):
    path.write_text("the only copy")
    with pytest.raises(DpbenchError, match="is there already and is never overwritten; choose another file"):
        write(path)
    assert path.read_text() == "the only copy"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"features": torch.full_like(FEATURES, float("nan"))}, "some features are NaN or infinite"),
        ({"features": FEATURES.clone().index_put_((torch.tensor(5),), torch.tensor(float("inf")))}, "NaN or infinite"),
        ({"features": FEATURES[:5]}, "5 features and 6 labels"),
        ({"features": FEATURES.flatten(1)}, r"shape \(36,\), expected \(4, 3, 3\)"),
        ({"features": FEATURES.to(torch.complex64)}, "torch.complex64 .* expected float32"),
        ({"features": torch.tensor(1.0).expand(1)}, "expected float32"),
        ({"labels": LABELS + 1}, "labels go from 1 to 3, expected 0 to 2"),
        ({"labels": LABELS.float()}, "labels are torch.float32"),
        ({"features": FEATURES[:0], "labels": LABELS[:0]}, "'count'"),
        ({"network": NETWORK.model_copy(update={"split_point": "layer1\nlayer2"})}, "'split_point'"),
        ({"network": NETWORK.model_copy(update={"class_names": ("a", "b")})}, "2 class names for 3 classes"),
    ],
)
def test_what_cannot_be_shared_is_not_written(path, wrong, words):
    with pytest.raises(DpbenchError, match=words):
        write(path, **wrong)
    assert list(path.parent.iterdir()) == []


def test_other_files(path):
    with pytest.raises(DpbenchError, match="there is no file"):
        read_features(path)
    path.write_text("a letter, and no tensors at all")
    with pytest.raises(DpbenchError, match="no safetensors file"):
        read_features(path)
    safetensors.torch.save_file({"weight": FEATURES}, path)
    with pytest.raises(DpbenchError, match="none of shared features"):
        read_features(path)


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 9, 100, 0.3, 0.5, 0.9, -1])
def test_truncated(path, kept):
    write(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept) if isinstance(kept, float) else kept])
    with pytest.raises(DpbenchError, match="cut short, damaged or no safetensors file"):
        read_features(path)


def test_every_flipped_byte_is_found(path):
    write(path)
    whole = path.read_bytes()
    places = {*range(0, len(whole), 7), *range(8, 40), len(whole) - 1}
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(DpbenchError):
            read_features(path)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"written": {"digest": "0" * 64}}, "was altered or damaged.*digest.*send it again"),
        ({"format_version": 3}, "has format 3, this dpbench reads up to 2; upgrade dpbench"),
        ({"count": 7}, "6 features and 6 labels, expected 7"),
        ({"written": {"count": "six"}}, "damaged header .*'count'"),
        ({"features": FEATURES[:4]}, "4 features and 6 labels, expected 6"),
        ({"labels": LABELS[:4]}, "6 features and 4 labels, expected 6"),
        ({"shape": (36,)}, r"shape \(4, 3, 3\), expected \(36,\)"),
        ({"labels": LABELS - 1}, "labels go from -1 to 1, expected 0 to 2"),
        ({"labels": LABELS + 1}, "labels go from 1 to 3"),
        ({"labels": LABELS.int()}, "labels are torch.int32"),
        ({"features": FEATURES * float("nan")}, "NaN or infinite"),
        ({"features": FEATURES.to(torch.complex64)}, "features are torch.complex64 .*expected float32"),
        ({"features": FEATURES.to(torch.float8_e4m3fn)}, "features are torch.float8_e4m3fn .*expected float32"),
        ({"features": torch.tensor(1.0)}, "expected float32"),
        ({"features": FEATURES.int()}, "states no scale and zero point; expected both of integers alone"),
        ({"scale": 0.5, "zero_point": 0.0}, "states a scale and a zero point; expected both of integers alone"),
        ({"features": FEATURES.int(), "scale": 0.0, "zero_point": 0.0}, "damaged header .*'scale'"),
        ({"features": FEATURES.int(), "scale": 1.0, "written": {"zero_point": float("nan")}}, "damaged header"),
        ({"weights_hash": "../../etc"}, "damaged header .*'weights_hash'"),
        ({"backbone": "resnet\x1b[31m"}, "damaged header .*'backbone'"),
        ({"class_names": ("a", "b")}, "damaged header .*2 class names for 3 classes"),
        ({"written": {"std": 0.5}}, "damaged header .*'std'"),
    ],
)
def test_files_that_contradict_themselves(path, wrong, words):
    forge(path, **wrong)
    with pytest.raises(DpbenchError, match=words) as refused:
        read_features(path, NETWORK)
    assert len(str(refused.value).splitlines()) == 1
    assert "\x1b" not in str(refused.value)


@pytest.mark.parametrize("tensors", [{"features": FEATURES}, {"features": FEATURES, "labels": LABELS, "more": LABELS}])
def test_missing_and_further_tensors(path, tensors):
    write(path)
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    safetensors.torch.save_file({name: value.clone() for name, value in tensors.items()}, path, metadata=metadata)
    with pytest.raises(DpbenchError, match="expected \\['features', 'labels'\\]"):
        read_features(path)


@pytest.mark.parametrize(
    ("field", "ours", "words"),
    [
        ("backbone", "resnet18", ["backbone is 'resnet10t', expected 'resnet18'", "ask for features of yours"]),
        ("backbone_args", {}, ["backbone args is {'drop_rate': 0.1}, expected {}"]),
        ("image_size", 64, ["image size is 32, expected 64", "agree on it"]),
        ("split_point", "layer2", ["split point is 'layer1', expected 'layer2'", "--only"]),
        ("shape", (4, 9), ["shape is (4, 3, 3), expected (4, 9)"]),
        ("classes", 4, ["classes is 3, expected 4"]),
        ("class_names", ("a", "c", "b"), ["class names is ('a', 'b', 'c'), expected ('a', 'c', 'b')", "order"]),
        ("weights_hash", "f" * 16, ["0123456789abcdef", "ffffffffffffffff", "--weights FILE"]),
    ],
)
def test_files_of_another_network(path, field, ours, words):
    write(path)
    with pytest.raises(DpbenchError) as refused:
        read_features(path, NETWORK.model_copy(update={field: ours}))
    (line,) = str(refused.value).splitlines()
    assert [word for word in words if word not in line] == []


def test_a_suite_alone_expects_less(path):
    write(path)
    expected = Cut(**{name: getattr(NETWORK, name) for name in Cut.model_fields})
    read_features(path, expected)
    with pytest.raises(DpbenchError, match="image size"):
        read_features(path, expected.model_copy(update={"image_size": 16}))


def test_of_many_classes_the_first_that_differs_is_named(path):
    names = tuple(f"class {i}" for i in range(1000))
    network = NETWORK.model_copy(update={"classes": 1000, "class_names": names})
    write(path, network=network)
    other = network.model_copy(update={"class_names": (*names[:500], "cat", *names[501:])})
    with pytest.raises(DpbenchError, match="class names is 'class 500' at 500, expected 'cat'"):
        read_features(path, other)


PLUGIN = """
    from typing import ClassVar
    import torch
    from dpbench import Defense, ProtectedModel

    class Shifted(ProtectedModel):
        def __init__(self, split, shift):
            super().__init__(split)
            self.shift = shift
            self.register_buffer("secret_buffer", torch.zeros(3))

        def transform(self, features, *, generator=None):
            return features * self.shift + self.secret_buffer.sum()

    class Secretive(Defense):
        '''With settings that are easy to find again.'''
        name: ClassVar[str] = "secretive"
        version: ClassVar[int] = 7
        shift: float = 0.1234567
        word: str = "sesame"

        def build(self, split):
            return Shifted(split, self.shift)

        def fit(self, model, private, *, generator, progress):
            model.secret_buffer.copy_(torch.tensor([981.25, 982.25, 983.25]))
"""


def test_the_header_holds_neither_parameters_nor_weights(path, tmp_path):
    plugin = tmp_path / "hidden_folder" / "my_plugin.py"
    plugin.parent.mkdir()
    plugin.write_text(textwrap.dedent(PLUGIN))
    suite = tmp_path / "tiny.toml"
    secretive = {"name": f"{plugin}:Secretive", "shift": 0.7654321, "word": "abracadabra"}
    images = {"image_size": 16, "private": 40, "auxiliary": 20, "test": 20}
    suite.write_text(tiny_suite([secretive], dataset=images, judge=None, backbone={"epochs": 0}))
    header = export_features(str(suite), path, device="cpu")
    assert (header.defense, header.defense_version, header.count) == ("secretive", 7, 40)
    with safetensors.safe_open(path, framework="pt") as file:
        assert set(file.keys()) == {"features", "labels"}
        assert set(file.metadata()) == {METADATA_KEY}
        text = file.metadata()[METADATA_KEY]
    assert set(json.loads(text)) == set(FeatureHeader.model_fields) - {"scale", "zero_point"}
    secrets = ["0.7654321", "abracadabra", "0.1234567", "sesame", "shift", "word", "981", "982", "983"]
    secrets += ["secret_buffer", "hidden_folder", "my_plugin", str(tmp_path)]
    assert [secret for secret in secrets if secret in text] == []
    weights = torch.tensor([981.25, 982.25, 983.25]).numpy().tobytes()
    assert weights not in path.read_bytes()
