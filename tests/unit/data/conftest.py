"""Folders of images that several files of this room read."""

import pytest
from image_folders import divided_folder, flat_folder


@pytest.fixture
def flat(tmp_path):
    return flat_folder(tmp_path)


@pytest.fixture
def split(tmp_path):
    return divided_folder(tmp_path)
