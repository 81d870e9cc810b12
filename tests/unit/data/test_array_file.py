"""A file of arrays that did not come as it was sent is one line, wherever the damage is."""

import numpy as np
import pytest
import safetensors.numpy

from dpbench.answers.dump import read_dump
from dpbench.data.array_file import read_arrays
from dpbench.errors import DpbenchError
from dpbench.models.adapters.zero_shot import _read

ARRAYS = {"features": np.random.default_rng(0).normal(size=(20, 40)).astype(np.float32)}


def _save(path, **arrays):
    path.write_bytes(safetensors.numpy.save(arrays, metadata={"names": "x"}))


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed, _save])
def test_arrays_are_read_and_damage_is_one_line(tmp_path, write):
    path = tmp_path / ("features.safetensors" if write is _save else "features.npz")
    write(path, **ARRAYS)
    arrays, told = read_arrays(path)
    assert np.array_equal(arrays["features"].numpy(), ARRAYS["features"])
    assert told == ({"names": "x"} if write is _save else {})
    whole = path.read_bytes()
    damaged = [whole[:length] for length in (0, 20, len(whole) // 2, len(whole) - 5)]
    if write is not _save:
        damaged += [whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :] for at in (30, len(whole) // 2)]
    for content in damaged:
        path.write_bytes(content)
        for read in (read_dump, _read):
            with pytest.raises(DpbenchError, match="damaged or of another kind") as raised:
                read(path)
            assert "\n" not in str(raised.value)


def test_objects_are_no_arrays(tmp_path):
    np.savez(tmp_path / "x.npz", features=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="Object arrays cannot be loaded"):
        read_arrays(tmp_path / "x.npz")
