"""Guards of work that a hostile file must not be able to ask for."""

import time
from contextlib import contextmanager


@contextmanager
def within_a_second(what="it"):
    """Fails if the block took this thread more than a second of processor time, however it ended.

    Where something bounds such work it is a tenth of that, where nothing does it is minutes.
    """
    began = time.thread_time()
    try:
        yield
    finally:
        seconds = time.thread_time() - began
        assert seconds < 1, f"{what} took {seconds:.1f} s"
