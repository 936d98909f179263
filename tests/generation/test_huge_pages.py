import sys
from pathlib import Path

import numpy as np
import pytest
from keras import ops

from keras_gemma.generation.huge_pages import _stretches, gather

TOLD = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def test_neighbours_are_one_stretch():
    places = [(1 << 30, 10), (100, 50), (None, 7), (150, 10)]
    assert _stretches(places) == [(100, 160), (1 << 30, (1 << 30) + 10)]


def test_numbers_stay_what_they_are():
    tensor = ops.reshape(ops.arange(4 << 20, dtype="float32"), (1024, -1))
    asked = gather([tensor])
    if sys.platform == "linux":
        never = not TOLD.exists() or "[never]" in TOLD.read_text()
        assert never or 12 << 20 <= asked <= 16 << 20
    else:
        assert asked == 0
    np.testing.assert_array_equal(np.ravel(ops.convert_to_numpy(tensor)), np.arange(4 << 20))


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux tells of its pages")
def test_the_system_counts_them():
    def huge():
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("AnonHuge"))

    if not TOLD.exists() or "[never]" in TOLD.read_text():
        pytest.skip("this system has no huge pages")
    ones = ops.ones((1024, 4 << 10), "float32")  # held: JAX frees it at a time of its own
    tensor = ones * 2.0
    ops.convert_to_numpy(tensor)
    before = huge()
    gather([tensor])
    gathered = huge()
    assert gathered >= before
    assert gathered >= 12 << 20


def test_memory_that_is_no_whole_page_is_left_alone():
    assert gather([ops.ones((3, 5))]) == 0
