"""Plug-ins read files that are hashed before a run; of any other a line says so, in whatever way it is opened."""

import pytest
import safetensors.torch
import torch

from dpbench.errors import DpbenchError
from dpbench.plugins import registry, sources
from dpbench.plugins.configuring import configure

PLUGIN = """
import json, os, tempfile
from pathlib import Path
from typing import ClassVar

import numpy as np
import safetensors
import safetensors.torch
import torch
import dpbench

{head}

HERE = Path(__file__).parent
NUMBER = 1


class Mine(dpbench.Metric):
    name: ClassVar[str] = "mine"
    closer: ClassVar[str] = "lower"
    given: dpbench.File | None = None

    def measure(self, images, victims):
        {body}
        return torch.zeros(len(images))
"""

REFUSED = r"it reads .*mask1\.\w+, which neither its code names nor a parameter gives.*dpbench\.File"


@pytest.fixture
def measured(tmp_path):
    """What a plug-in's process answers when its `measure` does something."""
    safetensors.torch.save_file({"mask": torch.ones(1)}, tmp_path / "mask1.safetensors")
    torch.save({"mask": torch.ones(1)}, tmp_path / "mask1.pth")
    (tmp_path / "mask1.json").write_text("[1]")
    (tmp_path / "mask1.npy").write_bytes(b"\x93NUMPY")
    (tmp_path / "helper1.py").write_text("VALUE = 1\n")

    def measure(body: str, head: str = "", **given):
        from dpbench.border.host import Guest
        from dpbench.border.wire import Message

        (tmp_path / "mine.py").write_text(PLUGIN.format(body=body, head=head))
        reference = f"{tmp_path / 'mine.py'}:Mine"
        metric = configure(registry.find("metric", reference), given)
        images = torch.zeros(2, 3, 4, 4)
        guest = Guest("x", torch.device("cpu"))
        asked = {"sort": "metric", "reference": reference, "arguments": metric.model_dump(mode="json")}
        try:
            return guest.request(Message("measure", asked, {"images": images, "victims": images}))
        finally:
            guest.close()

    return measure


@pytest.mark.parametrize(
    "body",
    [
        "open(HERE / f'mask{NUMBER}.json').read()",
        "(HERE / f'mask{NUMBER}.json').read_text()",
        "os.read(os.open(str(HERE / f'mask{NUMBER}.json'), os.O_RDONLY), 9)",
        "torch.load(HERE / f'mask{NUMBER}.pth', weights_only=True)",
        "safetensors.torch.load_file(HERE / f'mask{NUMBER}.safetensors')",
        "safetensors.safe_open(HERE / f'mask{NUMBER}.safetensors', 'pt')",
        "np.fromfile(HERE / f'mask{NUMBER}.npy')",
        "np.memmap(HERE / f'mask{NUMBER}.npy', mode='r')",
        "os.chdir(HERE); open(f'mask{NUMBER}.json').read()",
        "os.symlink(HERE / f'mask{NUMBER}.json', HERE / 'link'); open(HERE / 'link').read()",
        "[open(path).read() for path in sorted(HERE.glob('*.json'))]",
        "\n        try:\n            open(HERE / f'mask{NUMBER}.json')\n        except Exception:\n            pass",
    ],
)
def test_a_path_that_is_put_together_is_refused(measured, body):
    with pytest.raises(DpbenchError, match=REFUSED) as raised:
        measured(body)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("body", "given"),
    [
        ("open(HERE / 'mask1.json').read()", {}),
        ("torch.load(HERE / 'mask1.pth', weights_only=True)", {}),
        ("assert len(self.given.read_bytes()) == 3", {"given": "mask1.json"}),
        ("file = tempfile.TemporaryFile('w+'); file.write('1'); file.seek(0); file.read()", {}),
        ("Path(tempfile.gettempdir(), f'{os.getpid()}').write_text('1'); "
         "Path(tempfile.gettempdir(), f'{os.getpid()}').read_text()", {}),
        ("import decimal, xml.dom.minidom, torchvision.ops, timm.optim", {}),
        ("from importlib import resources; resources.files('timm').joinpath('__init__.py').read_text()", {}),
        ("open('/proc/self/status').read(); open(os.devnull).read()", {}),
        ("from PIL import ImageFont; ImageFont.load_default()", {}),
        ("open(HERE / f'nothing{NUMBER}').close() if (HERE / f'nothing{NUMBER}').exists() else None", {}),
    ],
)  # fmt: skip
def test_what_is_hashed_or_belongs_to_nobody_is_read(measured, tmp_path, body, given):
    measured(body, **{name: str(tmp_path / value) for name, value in given.items()})


def test_what_is_read_at_import_counts_too(measured):
    with pytest.raises(DpbenchError, match=r"it reads .*mask1\.json"):
        measured("pass", head="VALUE = json.loads((Path(__file__).parent / f'mask{1}.json').read_text())")


def test_code_from_elsewhere_is_part_of_it(measured, tmp_path, monkeypatch):
    (tmp_path / "lab" / "nets").mkdir(parents=True)
    (tmp_path / "lab" / "nets" / "__init__.py").write_text("from nets.deep import VALUE\n")
    (tmp_path / "lab" / "nets" / "deep.py").write_text("VALUE = 1\n")
    monkeypatch.syspath_prepend(tmp_path / "lab")
    measured("import nets")
    reference = f"{tmp_path / 'mine.py'}:Mine"
    before = sources.source_of(registry.find("metric", reference))
    (tmp_path / "lab" / "nets" / "deep.py").write_text("VALUE = 2\n")
    assert sources.source_of(registry.find("metric", reference)) != before


def test_code_from_elsewhere_under_a_name_that_is_not_spelt_out_is_refused(measured, tmp_path, monkeypatch):
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "secret1.py").write_text("VALUE = 1\n")
    monkeypatch.syspath_prepend(tmp_path / "lab")
    with pytest.raises(DpbenchError, match=r"it reads .*secret1\.py"):
        measured("import importlib; importlib.import_module('secr' + 'et1')")
