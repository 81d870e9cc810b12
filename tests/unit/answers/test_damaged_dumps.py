"""An .npz that did not come as it was sent is one line, wherever the damage is."""

import numpy as np
import pytest

from dpbench.answers.dump import read_dump
from dpbench.errors import DpbenchError


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_a_damaged_archive_is_one_line(tmp_path, write):
    path = tmp_path / "features.npz"
    write(path, features=np.random.default_rng(0).normal(size=(20, 40)).astype(np.float32))
    whole = path.read_bytes()
    assert read_dump(path).features.shape == (20, 40)
    for place in (30, len(whole) // 3, len(whole) // 2):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        with pytest.raises(DpbenchError, match="cut short, damaged") as raised:
            read_dump(path)
        assert "\n" not in str(raised.value)
    for length in (0, 20, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:length])
        with pytest.raises(DpbenchError, match="cut short, damaged"):
            read_dump(path)
