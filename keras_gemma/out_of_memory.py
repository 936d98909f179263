"""Errors for want of memory, from whichever library they come."""

import contextlib
import re
import traceback
from collections.abc import Callable, Iterator

_SAID = re.compile(
    r"RESOURCE_EXHAUSTED|out of memory|OOM when allocating|can't allocate memory|bad_alloc"
    r"|not enough memory|failed to allocate",
    re.IGNORECASE,
)


class OutOfMemoryError(MemoryError):
    """Memory is too small for what was asked; the message says what is needed, what is free, and what would fit."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether NumPy, JAX, PyTorch or TensorFlow raised it for want of memory.

    They have a class of error each, and on a CPU JAX and PyTorch only a text.

    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    True
    >>> is_out_of_memory(ValueError("a text about memory"))
    False
    """
    if isinstance(error, MemoryError):
        return True
    # TensorFlow's is no RuntimeError.
    is_candidate = isinstance(error, RuntimeError) or hasattr(error, "error_code")
    return is_candidate and _SAID.search(str(error)) is not None


@contextlib.contextmanager
def explained(explanation: Callable[[], str]) -> Iterator[None]:
    """Turn whatever a backend says for want of memory into an `OutOfMemoryError`.

    What the failed computation holds is given back, or the next try would lack it.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, OutOfMemoryError) or not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)
        raise OutOfMemoryError(explanation()) from error
