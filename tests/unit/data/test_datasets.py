"""Data sets that are drawn: their parts share no image, whatever the sizes, seeds and sets."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_folders import all_hashes, check_parts, divided_folder, flat_folder, spec

from dpbench.data import datasets
from dpbench.data.datasets import load_parts
from dpbench.data.embedded import leaves, spectra


@pytest.fixture(params=datasets.BUILT_IN)
def embedded(request):
    return request.param


def test_embedded_sets(embedded, tmp_path):
    wanted = spec(embedded, private=60, auxiliary=30, test=20, image_size=32)
    parts = load_parts(wanted, cache=tmp_path)
    check_parts(parts, wanted)
    assert parts.classes == tuple({"leaves": leaves, "spectra": spectra}[embedded].CLASSES)
    assert len(parts.classes) == 10
    assert torch.bincount(parts.private.labels).tolist() == [6] * 10


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(private=st.integers(1, 40), auxiliary=st.integers(1, 40), test=st.integers(5, 40))
def test_embedded_parts_do_not_depend_on_each_others_sizes(embedded, tmp_path_factory, private, auxiliary, test):
    cache = tmp_path_factory.mktemp("cache")
    parts = load_parts(spec(embedded, private=private, auxiliary=auxiliary, test=test), cache=cache)
    few = load_parts(spec(embedded, private=1, auxiliary=1, test=5), cache=cache)
    for name in ("private", "auxiliary", "test"):
        assert parts.hashes[name][: len(few.hashes[name])] == few.hashes[name]


def test_other_seeds_share_no_image(embedded, tmp_path):
    one, other = (load_parts(spec(embedded, seed=seed), cache=tmp_path) for seed in (0, 1))
    assert not set(all_hashes(one)) & set(all_hashes(other))


def test_embedded_sets_share_no_image(tmp_path):
    one, other = (load_parts(spec(name), cache=tmp_path) for name in ("leaves", "spectra"))
    assert not set(all_hashes(one)) & set(all_hashes(other))


@pytest.mark.parametrize("name", [*datasets.BUILT_IN, "flat", "split"])
def test_an_attacker_may_have_nearly_all_of_a_data_set(name, tmp_path):
    """With one private and one test image, as for auxiliary images of another data set than the victims'."""
    made = {"flat": flat_folder, "split": divided_folder}
    wanted = spec(made[name](tmp_path) if name in made else name, private=1, auxiliary=30, test=1)
    parts = load_parts(wanted, cache=tmp_path / "cache")
    check_parts(parts, wanted)
    assert len(parts.auxiliary.labels.unique()) == len(parts.classes)
