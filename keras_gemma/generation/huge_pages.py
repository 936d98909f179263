"""Weights in huge pages, for decoding: each of them is read once a token.

With pages of 4 KB the processor looks an address up every 64 cache lines that it reads, with pages of 2 MB
every 32,768. Linux moves memory that is in use into such pages when it is asked to, and nothing else
changes; other systems aren't asked.
"""

import ctypes
import functools
import sys
from collections.abc import Iterable
from typing import Any

from keras_gemma.arrays import address, nbytes

_PAGE = 2 << 20
_MADV_HUGEPAGE, _MADV_COLLAPSE = 14, 25  # when it finds the time; at once, since Linux 6.1
_APART = 64 << 10  # bytes between arrays that are taken for one stretch


def gather(tensors: Iterable[Any]) -> int:
    """Move what tensors of the host hold into huge pages where the system lets us; bytes asked for.

    Only whole pages within a stretch of arrays are asked for, so no memory is taken in addition.
    """
    madvise = _madvise()
    if madvise is None:
        return 0
    asked = 0
    for start, end in _stretches((address(tensor), nbytes(tensor)) for tensor in tensors):
        start, end = -(-start // _PAGE) * _PAGE, end // _PAGE * _PAGE
        if start < end and (
            madvise(start, end - start, _MADV_COLLAPSE) == 0
            or madvise(start, end - start, _MADV_HUGEPAGE) == 0
        ):
            asked += end - start
    return asked


def _stretches(places: Iterable[tuple[int | None, int]]) -> list[tuple[int, int]]:
    """`(start, end)` of the memory that neighbours fill, from where each starts and its bytes."""
    found = []
    for start, size in sorted(place for place in places if place[0] is not None):
        if found and start - found[-1][1] <= _APART:
            found[-1][1] = max(found[-1][1], start + size)
        else:
            found.append([start, start + size])
    return [(start, end) for start, end in found]


@functools.cache
def _madvise():
    if sys.platform != "linux":
        return None
    call = getattr(ctypes.CDLL(None), "madvise", None)
    if call is not None:
        call.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return call
