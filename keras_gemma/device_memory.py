"""Memory of the device that arrays are made on: all of it, what is taken, what is left."""

import os
from collections.abc import Iterator
from pathlib import Path

import keras

from keras_gemma.arrays import device_kind

_ROOT = Path("/sys/fs/cgroup")


def total() -> int | None:
    """Bytes of memory that the device has; `None` where it doesn't say."""
    name = keras.backend.backend()
    if stats := _of_jax():
        return stats.get("bytes_limit")
    if name == "torch" and device_kind() == "gpu":
        import torch

        return torch.cuda.mem_get_info()[1]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def used() -> int:
    """Bytes of memory in use: of an accelerator as far as it tells, else of this process."""
    name = keras.backend.backend()
    if stats := _of_jax():
        return stats["bytes_in_use"]
    if name == "torch" and device_kind() == "gpu":
        import torch

        return torch.cuda.memory_allocated()
    if sizes := _of_pages():
        return sizes[1]
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # at its most, on macOS in bytes


def free() -> int | None:
    """Bytes that may still be taken; `None` where nothing tells.

    Of a CPU with swap, and no more than a container or `ulimit -v` leaves to this process.
    """
    if is_hosts():
        return min((*_of_machine(), *_of_groups(), *_of_process()), default=None)
    if (stats := _of_jax()) and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    if keras.backend.backend() == "torch" and device_kind() == "gpu":
        import torch

        kept = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return torch.cuda.mem_get_info()[0] + kept
    return None


def is_hosts() -> bool:
    """Whether it is the machine's own. There Linux promises more than it has, and ends the process that takes it."""
    return device_kind() == "cpu"


def _of_jax():
    """What JAX says of an accelerator."""
    if keras.backend.backend() != "jax":
        return None
    import jax

    return jax.local_devices()[0].memory_stats()


def _of_machine() -> Iterator[int]:
    lines = _read(Path("/proc/meminfo")).splitlines()
    told = {name: int(value.split()[0]) for name, _, value in (x.partition(":") for x in lines)}
    if "MemAvailable" in told:
        yield 1024 * (told["MemAvailable"] + told.get("SwapFree", 0))


def _of_groups() -> Iterator[int]:
    """What control groups leave, by which Linux bounds a container: this process's, and those it lies in."""
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        _, controllers, place = line.split(":", 2)
        if controllers == "":
            root, most, taken = _ROOT, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            root, most, taken = _ROOT / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        own = root / place.lstrip("/")
        for folder in (own, *own.parents):
            limit, usage = _read(folder / most).strip(), _read(folder / taken).strip()
            if limit.isdigit() and usage.isdigit():
                # Files that nobody reads any more give way.
                counts = dict(x.split() for x in _read(folder / "memory.stat").splitlines())
                yield int(limit) - int(usage) + int(counts.get("inactive_file", 0))
            if folder == root:
                break


def _of_process() -> Iterator[int]:
    try:
        import resource
    except ImportError:  # Windows
        return
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY and (sizes := _of_pages()):
        yield limit - sizes[0]


def _of_pages():
    """Bytes of this process: of addresses, in memory, and others; none where the system has no such file."""
    return [int(x) * os.sysconf("SC_PAGE_SIZE") for x in _read(Path("/proc/self/statm")).split()]


def _read(path):
    try:
        return path.read_text()
    except OSError:
        return ""
