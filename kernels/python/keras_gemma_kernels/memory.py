"""Memory for packed weights.

Weights are read once a token, so each page of them costs a look-up that no cache remembers: pages of 2 MB
instead of 4 KB give 4 to 20 %. NumPy asks the system for such pages from 4 MB up, which few matrices have
by themselves: they are put together in chunks.
"""

import math
import threading
import weakref

import numpy as np

_CHUNK = 64 << 20  # bytes; what is never written takes no memory
_ALIGNMENT = 64

_lock = threading.Lock()
_newest: weakref.ref | None = None  # chunk, which lives as long as any matrix in it
_used = 0


def aligned(shape: tuple[int, ...]) -> np.ndarray:
    """Bytes with nothing in them, at the start of a line of the processor's caches.

    >>> aligned((3, 100)).ctypes.data % 64
    0
    """
    global _newest, _used
    size = math.prod(shape)
    room = -(-size // _ALIGNMENT) * _ALIGNMENT
    if room > _CHUNK:
        return _of(_fresh(room), 0, size).reshape(shape)
    with _lock:
        chunk = _newest and _newest()
        if chunk is None or _used + room > _CHUNK:
            chunk, _used = _fresh(_CHUNK), 0
            _newest = weakref.ref(chunk)
        start, _used = _used, _used + room
    return _of(chunk, start, size).reshape(shape)


def _fresh(size):
    return np.empty(size + _ALIGNMENT, "uint8")


def _of(chunk, start, size):
    start += -chunk.ctypes.data % _ALIGNMENT
    return chunk[start : start + size]
