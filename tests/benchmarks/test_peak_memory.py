"""Peak memory at the sizes that the guide shows (the page memory-and-speed); a smaller run of it is among the tests.

python -m pytest -n 0 -s tests/benchmarks/test_peak_memory.py
"""

from peak_memory import assert_bounded_in_images, assert_grows_with_the_batch


def test_peak_memory_does_not_grow_with_the_images(tmp_path):
    assert_bounded_in_images(tmp_path, few=1000, many=5000)


def test_peak_memory_grows_with_the_batch(tmp_path):
    assert_grows_with_the_batch(tmp_path, few=1000)
