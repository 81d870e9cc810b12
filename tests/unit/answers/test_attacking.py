"""Features dumped from a device: read, fitted to their images, attacked; what does not fit is one clear line."""

import json

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from dpbench.answers import attacking
from dpbench.answers.attacking import FLOORS, attack_features
from dpbench.answers.dump import images_for, read_dump
from dpbench.errors import DpbenchError
from dpbench.testing.tiny import smooth

SIZE = 16


def pictures(folder, count, seed):
    """Image files, and their pixels in [0,1]."""
    folder.mkdir()
    images = (smooth(count, seed=seed, shape=(3, SIZE, SIZE)) * 255).round()
    for number, image in enumerate(images):
        pixels = image.permute(1, 2, 0).numpy().astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03}.png")
    return images / 255


def client(images):
    """What the device sends: a strided average and contrasts of it."""
    small = torch.nn.functional.avg_pool2d(images, 2)
    return torch.cat([small, small.flip(2) - small], 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dump")
    for name, count in (("mine", 96), ("theirs", 12)):
        features = client(pictures(folder / name, count, name))
        safetensors.torch.save_file({"features": features}, folder / f"{name}.safetensors")
        scale = float(features.abs().max()) / 127
        integers = (features / scale + 3).round().clamp(-128, 127).to(torch.int8)
        np.savez(folder / f"{name}.npz", features=integers.numpy(), scale=scale, zero_point=np.float32(3))
    return folder


def attacked(folder, ending="safetensors", **more):
    return attack_features(
        folder / f"mine.{ending}", folder / "mine", image_size=SIZE, steps=more.pop("steps", 20), width=8,
        device="cpu", **more,
    )  # fmt: skip


@pytest.mark.parametrize("ending", ["safetensors", "npz"])
def test_victims_of_a_second_file_come_back(folder, ending):
    found = attacked(folder, ending, victims=folder / f"theirs.{ending}", victim_images=folder / "theirs")
    assert found.pairs == 96
    assert set(found.images) == {*FLOORS, "closed form", "decoder"}
    assert found.images["decoder"].shape == (12, 3, SIZE, SIZE)
    ssim = {name: figures["ssim"][0] for name, figures in found.figures.items()}
    assert ssim["closed form"] > max(ssim[name] for name in FLOORS) + 0.1
    assert found.dtype == {"safetensors": "float32", "npz": "int8"}[ending]
    assert found.bits <= 6 * 64 * (32 if ending == "safetensors" else 8)
    assert "not run" in found.remarks[0]
    assert "rmle" in found.remarks[0]


def test_without_a_second_file_some_pairs_are_victims_and_teach_nobody(folder):
    found = attacked(folder)
    assert (found.pairs, len(found.truth)) == (72, 24)


def test_without_the_victims_images_nothing_is_scored(folder):
    found = attacked(folder, victims=folder / "theirs.safetensors", steps=2)
    assert not found.figures
    assert "not scored" in found.remarks[-1]


def test_what_was_learnt_of_pairs_in_another_order_is_nobody_s_image():
    truth = smooth(24, seed="victims", shape=(3, SIZE, SIZE))
    blurred = torch.nn.functional.avg_pool2d(truth, 3, stride=1, padding=1)
    assert attacking._learnt(blurred, truth)
    for images in (truth.mean(0, keepdim=True).expand_as(truth), blurred.roll(11, 0)):
        assert not attacking._learnt(images, truth)
        remarks = attacking._remarks({"closed form": images, "decoder": images}, truth)
        assert "not in the order of their images" in remarks[-1]


def test_names_in_the_metadata_say_the_order(folder, tmp_path):
    features = read_dump(folder / "mine.safetensors").features
    names = [f"{number:03}.png" for number in reversed(range(96))]
    path = tmp_path / "named.safetensors"
    safetensors.torch.save_file({"features": features.flip(0)}, path, metadata={"names": json.dumps(names)})
    dump = read_dump(path)
    images = images_for(dump, folder / "mine", SIZE, path=path)
    torch.testing.assert_close(client(images), features.flip(0))
    safetensors.torch.save_file({"features": features}, path, metadata={"names": json.dumps(["x.png", *names[1:]])})
    with pytest.raises(DpbenchError, match=r"names the image 'x\.png', which is not in"):
        images_for(read_dump(path), folder / "mine", SIZE, path=path)


@pytest.mark.parametrize(
    ("arrays", "options", "said"),
    [
        ({"features": torch.zeros(4, 2, dtype=torch.int8)}, {}, "nothing says what they mean; give a scale"),
        ({"features": torch.zeros(4, 2), "scale": torch.ones(())}, {}, "are of integers alone"),
        (
            {"features": torch.zeros(4, 2, 5, dtype=torch.int8), "scale": torch.ones(3)},
            {},
            r"scale has the shape \(3,\).* one for each of 2 or 5 channels",
        ),
        ({"features": torch.zeros(4, 2, dtype=torch.int8), "scale": torch.tensor([1.0, 0.0])}, {}, "scale 0 to 1"),
        (
            {"features": torch.full((4, 2), 1 << 25, dtype=torch.int32), "scale": torch.ones(1)},
            {},
            "some integers are 33554432 steps from their zero point",
        ),
        ({"features": torch.zeros(4, 2, dtype=torch.int8), "scale": torch.ones(1)}, {"scale": 2.0}, "leave the option"),
        ({"features": torch.zeros(4, 2, dtype=torch.int8)}, {"scale": 0.0}, "a scale above 0"),
        ({"features": torch.zeros(4)}, {}, r"float32 \(4,\); expected"),
        ({"features": torch.full((4, 2), torch.nan)}, {}, "NaN or infinite"),
        ({"features": torch.zeros(4, 2), "more": torch.zeros(4)}, {}, "holds features, more; expected"),
    ],
)
def test_files_that_do_not_say_what_they_hold_are_refused(tmp_path, arrays, options, said):
    path = tmp_path / "dump.safetensors"
    safetensors.torch.save_file(arrays, path)
    with pytest.raises(DpbenchError, match=said):
        read_dump(path, **options)


@pytest.mark.parametrize(("shape", "axis"), [((5, 3, 4, 4), 1), ((5, 7, 3), 2), ((5, 3), 1)])
def test_each_channel_may_have_its_scale_and_zero_point(tmp_path, shape, axis):
    steps = torch.randint(-128, 128, shape, dtype=torch.int8, generator=torch.Generator().manual_seed(0))
    scale, zero = torch.tensor([0.5, 1.0, 2.0]), torch.tensor([0, 1, -3], dtype=torch.int32)
    path = tmp_path / "dump.safetensors"
    safetensors.torch.save_file({"features": steps, "scale": scale, "zero_point": zero}, path)
    found = read_dump(path)
    by_channel = steps.movedim(axis, -1)
    assert torch.equal(found.features.movedim(axis, -1), (by_channel.float() - zero) * scale)
    assert found.dtype == torch.int8


def test_a_damaged_file_and_one_that_is_not_there_are_refused(tmp_path):
    path = tmp_path / "dump.safetensors"
    with pytest.raises(DpbenchError, match="there is no file"):
        read_dump(path)
    path.write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    with pytest.raises(DpbenchError, match="cut short, damaged or of another kind"):
        read_dump(path)


def test_other_counts_shapes_and_images_are_refused(folder, tmp_path):
    mine = folder / "mine.safetensors"
    with pytest.raises(DpbenchError, match=r"holds the features of 96 images, and .* has 12"):
        attack_features(mine, folder / "theirs", image_size=SIZE)
    other = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"features": torch.zeros(12, 5)}, other)
    with pytest.raises(DpbenchError, match="expected those of one client in one form"):
        attacked(folder, victims=other)
    with pytest.raises(DpbenchError, match="some victims are among the images"):
        attacked(folder, victims=mine, victim_images=folder / "mine")
    with pytest.raises(DpbenchError, match="name both, or neither"):
        attacked(folder, victim_images=folder / "theirs")
    with pytest.raises(DpbenchError, match="there is no folder"):
        attack_features(mine, tmp_path / "gone", image_size=SIZE)


def test_the_command_shows_what_came_of_it(folder, dpbench, tmp_path):
    arguments = ["--image-size", SIZE, "--steps", 2, "--width", 8, "--device", "cpu", "--output", tmp_path / "out"]
    done = dpbench("attack", folder / "mine.safetensors", "--images", folder / "mine", *arguments)
    assert done.status == 0, done.err
    for word in ("nearest-auxiliary", "closed form", "decoder", "not run"):
        assert word in done.out
    assert (tmp_path / "out" / "attack.png").stat().st_size > 500
    assert (tmp_path / "out" / "attack.csv").read_text().startswith("attack,metric,mean,low,high\n")
