"""One process at a time: the first fetches, the others wait and find it done."""

import contextlib
import os
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

_PAUSE = 0.1  # seconds between two looks at a lock that another process holds


@contextlib.contextmanager
def locked(path: Path, say: Callable[[str], object] = lambda text: None) -> Iterator[None]:
    """Hold the lock of that path; the system frees it should this process die.

    Args:
        path: of the lock file, made where it is missing.
        say: is told once, should another process hold it.

    A holder that died is told by a warning, for its work may lie there half done. A folder that
    can't be written to has no lock, and needs none.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except PermissionError:
        yield
        return
    try:
        _wait(handle, path, say)
        if holder := _holder(handle):
            warnings.warn(
                f"Process {holder} held {path.name} and is gone: its lock is broken, and what it "
                "had begun goes on where it stopped.",
                stacklevel=3,
            )
        _write(handle, str(os.getpid()))
        yield
        _write(handle, "")
    except BaseException:
        with contextlib.suppress(OSError):
            _write(handle, "")
        raise
    finally:
        os.close(handle)


def _wait(handle, path, say):
    told = False
    while not take(handle):
        if not told:
            say(f"Process {_holder(handle) or '?'} is fetching the same; waiting for it.")
            told = True
        time.sleep(_PAUSE)


def take(handle: int) -> bool:
    """Lock an open file, until it is closed or its process ends; false if another has it."""
    try:
        if os.name == "nt":
            import msvcrt

            # A byte far behind the text: Windows keeps others from reading what is locked.
            os.lseek(handle, 1024, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # pyright: ignore
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _holder(handle):
    os.lseek(handle, 0, os.SEEK_SET)
    text = os.read(handle, 32).decode("ascii", "replace")
    return int(text) if text.isdecimal() else None


def _write(handle, text):
    os.ftruncate(handle, 0)
    os.lseek(handle, 0, os.SEEK_SET)
    os.write(handle, text.encode())
