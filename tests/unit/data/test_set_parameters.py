"""Parameters of data sets that are plug-ins: where they stand in a suite, and what they change."""

import numpy as np
import pydantic
import pytest

from dpbench.data.spec import DatasetSpec, ShiftedSpec
from dpbench.errors import DpbenchError
from dpbench.plugins.image_sets import find_source, fingerprint
from dpbench.suite.files import beside

SET = """
from typing import ClassVar
import numpy as np
import pydantic
import dpbench

class Flat(dpbench.ImageSet):
    "Grey images."
    name: ClassVar[str] = "flat"
    classes: ClassVar[tuple[str, ...]] = ("dark", "bright")
    level: int = pydantic.Field(10, ge=0, le=100)
    mask: dpbench.File | None = None
    def draw(self, part, indices, *, size, seed):
        return np.full((len(indices), 3, size, size), self.level, np.uint8), np.array(indices) % 2
"""


@pytest.fixture
def flat(tmp_path, vouched):
    """`flat(level=3)` -> the data set with these parameters."""
    (tmp_path / "own.py").write_text(SET)

    def named(**parameters):
        return DatasetSpec.model_validate({"name": f"{tmp_path}/own.py:Flat", "test": 4, **parameters})

    return named


def test_what_is_no_key_of_the_table_is_a_parameter(flat):
    spec = flat(level=3)
    assert spec.arguments == {"level": 3}
    assert spec.test == 4
    assert spec == flat(arguments={"level": 3})
    images, _ = find_source(spec).draw(spec, "test", range(2))
    assert np.unique(images).tolist() == [3]
    shifted = ShiftedSpec.model_validate({"name": spec.name, "level": 3})
    assert shifted.dataset(16).arguments == {"level": 3}


def test_sets_without_parameters_are_written_as_before(flat):
    assert "arguments" not in flat().model_dump(mode="json")
    assert "arguments" not in ShiftedSpec(name="leaves").model_dump()
    assert DatasetSpec.model_validate(flat(level=3).model_dump(mode="json")) == flat(level=3)


def test_other_parameters_are_other_images(flat):
    marks = {fingerprint(flat(**given)) for given in ({}, {"level": 3}, {"level": 4})}
    assert len(marks) == 3
    assert fingerprint(flat(level=3)) in marks


def test_of_a_file_the_content_counts_and_not_the_place(flat, tmp_path):
    for name, content in (("a.npy", "1"), ("b.npy", "1"), ("c.npy", "2")):
        (tmp_path / name).write_text(content)
    one, moved, other = (fingerprint(flat(mask=str(tmp_path / name))) for name in ("a.npy", "b.npy", "c.npy"))
    assert one == moved != other
    found = beside({"dataset": {"name": "own.py:Flat", "mask": "a.npy"}}, tmp_path)
    assert found["dataset"] == {"name": f"{tmp_path}/own.py:Flat", "mask": f"{tmp_path}/a.npy"}


@pytest.mark.parametrize(
    ("parameters", "said"),
    [({"levle": 3}, "did you mean 'level'"), ({"level": 101}, "less than or equal to 100"), ({"level": "x"}, "level")],
)
def test_what_does_not_fit_is_refused_in_a_line(flat, parameters, said):
    with pytest.raises(DpbenchError, match=said) as refused:
        fingerprint(flat(**parameters))
    assert "\n" not in str(refused.value)


def test_only_plugins_have_parameters():
    with pytest.raises(pydantic.ValidationError, match="Extra inputs"):
        DatasetSpec.model_validate({"name": "leaves", "level": 3})
    with pytest.raises(DpbenchError, match=r"leaves: got arguments \(level\)"):
        fingerprint(DatasetSpec(name="leaves", arguments={"level": 3}))


def test_another_set_in_its_place_has_none_of_its_parameters(flat):
    spec = flat(level=3)
    assert spec.renamed("leaves").arguments == {}
    assert spec.renamed("elsewhere/own.py:Flat").arguments == {"level": 3}
    assert spec.renamed("elsewhere/own.py:Other").arguments == {}
