"""Files of a folder elsewhere: by HTTP with no more than Python, in buckets through fsspec.

Copied to `KERAS_GEMMA_HOME/presets/files`, each into a part file first that carries in its name what
the place said of the file's state: a copy goes on only with the file that it began with.
"""

import contextlib
import hashlib
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from keras_gemma.presets.access import Missing, Unreachable, refused
from keras_gemma.presets.errors import PresetError
from keras_gemma.presets.handles import Handle, home
from keras_gemma.presets.transfer import Damaged, no_space, set_aside, watched

_BLOCK = 2**20
_SECONDS = 30  # without a byte, after which a place counts as gone
_STATES = ".keras_gemma.json"


class State(NamedTuple):
    """What a place says of a file: its size, and a text that changes when the file does."""

    size: int | None
    mark: str


class Folder:
    """A folder of files by HTTP or in a bucket."""

    cache_variable = "KERAS_GEMMA_HOME"

    def __init__(self, handle: Handle, card: Mapping[str, Any] | None, known, progress):
        self.handle, self.card, self.progress = handle, card, progress
        self.base = f"{handle.scheme}://{handle.place}"
        self.place = Web(self.base) if handle.scheme in ("http", "https") else Bucket(self.base)
        self.cache = home()
        self.folder = home() / "presets" / "files" / handle._replace(file=None).key
        self.states: dict[str, State | None] = {}

    @property
    def files(self) -> Mapping[str, int | None] | None:
        """Known files and their sizes."""
        return {name: state.size for name, state in self.states.items() if state}

    def connect(self) -> None:
        """Nothing to ask for: each file is asked for by itself."""

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        if name not in self.states:
            with self.errors(name):
                self.states[name] = self.place.state(name)
        return self.states[name] is not None

    def local(self) -> Path | None:
        """The folder of what was fetched of it before."""
        return self.folder if self.folder.is_dir() else None

    def local_has(self, folder: Path, name: str) -> bool:
        """Whether that file lies whole in the cache."""
        return (folder / name).is_file()  # a part file has another name

    def partial(self, name: str) -> int:
        """Bytes of that file that are here already."""
        place = self.folder / name
        if place.is_file() and self._states().get(name) == self.states[name].mark:
            return place.stat().st_size
        part = self._part(name)
        return part.stat().st_size if part.is_file() else 0

    def get(self, name: str) -> Path:
        """The file, copied if it is not here as it is there."""
        if not self.has(name):
            raise Missing(name)
        path, state = self.folder / name, self.states[name]
        if path.is_file() and self._states().get(name) == state.mark:
            return path
        part = self._part(name)
        part.parent.mkdir(parents=True, exist_ok=True)
        try:
            with (
                self.errors(name),
                part.open("ab") as file,
                watched(part, name, state.size, self.progress),
            ):
                self._copy(name, file, state)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            if no_space(error):
                part.unlink(missing_ok=True)
            raise
        part.replace(path)
        states = {**self._states(), name: state.mark}
        new = self.folder / f"{_STATES}.{os.getpid()}.part"
        new.write_text(json.dumps(states), encoding="utf-8")
        new.replace(self.folder / _STATES)
        return path

    def _copy(self, name, file, state):
        with self.place.open(name, file.tell(), state) as (source, begins_at):
            file.truncate(begins_at)
            while block := source.read(_BLOCK):
                file.write(block)
        here = file.tell()
        if state.size is not None and here > state.size:
            file.truncate(0)
            raise Damaged(f"{name} has {here} bytes, {state.size} awaited")
        if state.size is not None and here < state.size:
            raise Unreachable(f"the connection ended after {here} of {state.size} bytes of {name}")

    def _part(self, name):
        digest = hashlib.sha256(self.states[name].mark.encode()).hexdigest()[:12]
        return self.folder / f"{name}.{digest}.part"

    def _states(self):
        try:
            found = json.loads((self.folder / _STATES).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def expected_sum(self, name: str) -> str | None:
        """A folder tells no sums."""
        return None

    def discard(self, name: str) -> Path:
        """Set a damaged file aside, so that nobody takes it for whole."""
        return set_aside(self.folder / name)

    @contextlib.contextmanager
    def errors(self, file: str) -> Iterator[None]:
        """While a place is asked: its errors become ours."""
        try:
            yield
        except urllib.error.HTTPError as error:
            wait = error.headers.get("Retry-After")
            error.close()
            raise refused(self.handle, error.code, self.card, file, wait=wait) from None
        except PermissionError as error:
            if error.filename and str(self.folder) in str(error.filename):
                raise
            raise refused(self.handle, 403, self.card, file) from error
        except OSError as error:
            if no_space(error):
                raise
            raise Unreachable(f"no connection: {type(error).__name__}") from error


class Web:
    """A folder by HTTP."""

    def __init__(self, base: str):
        self.base = base

    def state(self, name: str) -> State | None:
        """What the server says of a file; None if it has none of that name."""
        request = urllib.request.Request(f"{self.base}/{name}", method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
                head = answer.headers
        except urllib.error.HTTPError as error:
            if error.code == 404:
                error.close()
                return None
            raise
        size = head.get("Content-Length")
        size = int(size) if size and size.isdecimal() else None
        return State(size, f"{size} {head.get('ETag')} {head.get('Last-Modified')}")

    @contextlib.contextmanager
    def open(self, name: str, begin: int, state: State):
        """The file from a byte on, or from the first where the server can do no other."""
        request = urllib.request.Request(f"{self.base}/{name}")
        if state.size is not None and begin >= state.size:
            begin = 0
        if begin:
            request.add_header("Range", f"bytes={begin}-")
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
            yield answer, begin if answer.status == 206 else 0


class Bucket:
    """A folder in a bucket, or wherever else fsspec leads."""

    def __init__(self, base: str):
        import fsspec

        try:
            self.system, self.root = fsspec.url_to_fs(base)
        except ImportError as error:  # gs needs gcsfs, s3 needs s3fs
            raise PresetError(f"{base}: {error}. pip install 'keras-gemma[cloud]'") from None
        except ValueError as error:
            raise PresetError(f"{base}: {error}.") from None

    def state(self, name: str) -> State | None:
        """What the bucket says of a file; None if it has none of that name."""
        try:
            found = self.system.info(f"{self.root}/{name}")
        except FileNotFoundError:
            return None
        return State(found.get("size"), str(self.system.ukey(f"{self.root}/{name}")))

    @contextlib.contextmanager
    def open(self, name: str, begin: int, state: State):
        """The file from a byte on."""
        if state.size is not None and begin >= state.size:
            begin = 0
        with self.system.open(f"{self.root}/{name}", "rb") as file:
            if begin:
                file.seek(begin)
            yield file, begin
