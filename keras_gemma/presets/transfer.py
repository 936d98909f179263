"""What every download needs: room, a look at what came, and somebody to tell how far it is."""

import contextlib
import errno
import hashlib
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from keras_gemma.presets.errors import NoSpaceError
from keras_gemma.presets.sizes import megabytes

Progress = Callable[[str, int, "int | None"], object]
"""Is told a file's name, its bytes that are here, and how many there are in all, if known."""

_INTERVAL = 0.2  # seconds between two looks at a growing file
_SPARE = 64 * 2**20  # bytes to leave free: the system wants some too


@contextlib.contextmanager
def watched(path: Path, name: str, total: int | None, progress: Progress | None) -> Iterator[None]:
    """While a file grows, tell of it; whoever writes it need not know."""
    if progress is None:
        yield
        return
    done = threading.Event()

    def look():
        while not done.wait(_INTERVAL):
            with contextlib.suppress(OSError):
                progress(name, path.stat().st_size, total)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def check_space(needed: int, folder: Path, variable: str) -> None:
    """Refuse a download that can't fit, before it fills the disk.

    Raises:
        NoSpaceError: both sizes, and the variable that moves the cache elsewhere.
    """
    place = folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed and needed + _SPARE > free:
        raise NoSpaceError(
            f"{megabytes(needed)} are to be fetched to {folder}, and {megabytes(free)} are free "
            f"there. Make room, or set {variable} to a folder on another disk."
        )


def no_space(error: OSError) -> bool:
    """Whether the disk is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def sha256(path: Path) -> str:
    """The sum of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_web_page(path: Path) -> bool:
    """Whether a page for people came where a file was asked for, as proxies do."""
    with path.open("rb") as file:
        head = file.read(512).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return head.startswith((b"<!doctype html", b"<html", b"<head"))


def set_aside(path: Path) -> Path:
    """Rename a damaged file, so that it is never used, and can be looked at."""
    aside = path.with_name(f"{path.name}.corrupt")
    path.replace(aside)
    return aside


class Damaged(Exception):
    """A file came otherwise than it should; it has been set aside or removed."""
