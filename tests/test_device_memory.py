"""What is free, by what Linux says of the machine, of control groups and of the process."""

from pathlib import Path

import pytest

from keras_gemma import device_memory

pytestmark = pytest.mark.once
MACHINE = "MemTotal:  100 kB\nMemAvailable:   60 kB\nSwapFree:   20 kB\nHugePages_Total:  0\n"


@pytest.fixture
def files(monkeypatch):
    """What lies in /proc and /sys."""
    found = {"/proc/meminfo": MACHINE}
    monkeypatch.setattr(device_memory, "_read", lambda path: found.get(str(path), ""))
    monkeypatch.setattr(device_memory, "_of_process", lambda: iter(()))
    return found


def test_swap_counts(files):
    assert device_memory.free() == 80 * 1024


def test_a_container_gets_what_its_groups_leave(files):
    files["/proc/self/cgroup"] = "0::/outer/inner\n"
    files["/sys/fs/cgroup/outer/inner/memory.max"] = "max\n"
    files["/sys/fs/cgroup/outer/inner/memory.current"] = "9000\n"
    assert device_memory.free() == 80 * 1024
    files["/sys/fs/cgroup/outer/memory.max"] = "50000\n"
    files["/sys/fs/cgroup/outer/memory.current"] = "20000\n"
    files["/sys/fs/cgroup/outer/memory.stat"] = "anon 12000\ninactive_file 5000\n"
    assert device_memory.free() == 35_000


def test_groups_of_the_first_version_are_read_too(files):
    files["/proc/self/cgroup"] = "5:cpu:/a\n4:memory:/a\n0::/\n"
    files["/sys/fs/cgroup/memory/a/memory.limit_in_bytes"] = "7000\n"
    files["/sys/fs/cgroup/memory/a/memory.usage_in_bytes"] = "3000\n"
    assert device_memory.free() == 4000


def test_where_nothing_tells_nothing_is_said(files):
    files.clear()
    assert device_memory.free() is None


def test_what_is_there_is_more_than_what_is_used_or_free():
    assert 0 < device_memory.used() < device_memory.total()
    if Path("/proc/meminfo").exists():
        assert 0 < device_memory.free()
