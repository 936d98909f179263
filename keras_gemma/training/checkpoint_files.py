"""Checkpoints on disk: whole files only, written beside the training, the newest and the best kept."""

import errno
import json
import math
import os
import shutil
import warnings
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from keras_gemma.conversion.huggingface.safetensors_file import DTYPES, SafetensorsTensors
from keras_gemma.presets.errors import BadPresetError, NoSpaceError
from keras_gemma.training.snapshot import Snapshot

_STATE = "state"  # the tensor that holds the snapshot's state, as JSON
_NAMES = {dtype.name: name for name, dtype in DTYPES.items()}
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class CheckpointFiles:
    """The checkpoints of a run, `step_00000120.safetensors` and so on, in one folder.

    Args:
        folder: made where it is missing.
        keep: how many of the newest stay.
        best: `(name, sign)` of a number in the state's `logs`: the checkpoint where it times the
            sign is lowest stays, too.
    """

    def __init__(self, folder: Path, keep: int, best: tuple[str, int] | None = None):
        self.folder, self.keep, self.best = folder, keep, best
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future | None = None

    def write(self, snapshot: Snapshot) -> None:
        """Write one in the background; waits for the one before it, so that there never are two.

        Raises:
            NoSpaceError: the one before it found no room.
        """
        self.wait()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._writing = self._writer.submit(self._write, snapshot)

    def wait(self) -> None:
        """Until what is being written is on the disk.

        Raises:
            NoSpaceError: there was no room for it.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def paths(self) -> list[Path]:
        """The newest first."""
        return sorted(self.folder.glob("step_*.safetensors"), reverse=True)

    def newest(self) -> Path | None:
        """The newest that is whole; a damaged one is told by a warning. Removes what was half written."""
        for part in self.folder.glob("*.part"):
            part.unlink()
        for path in self.paths():
            try:
                read_state(path)
            except BadPresetError as error:
                warnings.warn(f"{error} The checkpoint before it is taken.", stacklevel=2)
                continue
            return path
        return None

    def best_path(self) -> Path | None:
        """The one where the watched number was best; `None` if none has it, or NaN alone."""
        if self.best is None:
            return None
        name, sign = self.best
        found = {path: read_state(path)["logs"].get(name) for path in self.paths()}
        found = {
            path: sign * value
            for path, value in found.items()
            if value is not None and not math.isnan(value)
        }
        return min(found, key=found.__getitem__) if found else None

    def _write(self, snapshot):
        write(self.folder / f"step_{snapshot.state['step']:08}.safetensors", snapshot)
        kept = {*self.paths()[: self.keep], self.best_path()}
        for path in self.paths():
            if path not in kept:
                path.unlink()


def write(path: Path, snapshot: Snapshot) -> None:
    """Write a checkpoint; the file appears whole or not at all.

    Raises:
        NoSpaceError: the disk has no room for it. What was written of it is gone.
    """
    text = np.frombuffer(json.dumps(snapshot.state).encode(), "uint8")
    tensors = {_STATE: text, **snapshot.arrays}
    header, end = {}, 0
    for name, array in tensors.items():
        header[name] = {
            "dtype": _NAMES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [end, end := end + array.nbytes],
        }
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)  # so that numbers start at a multiple of eight
    needed, part = 8 + len(raw) + end, path.with_name(path.name + ".part")
    free = shutil.disk_usage(path.parent).free
    try:
        if needed > free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with part.open("wb") as file:
            file.write(len(raw).to_bytes(8, "little") + raw)
            for array in tensors.values():
                file.write(np.ascontiguousarray(array).reshape(-1).view("uint8"))
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        if error.errno not in _NO_ROOM:
            raise
        raise NoSpaceError(
            f"{path} needs {needed:,} bytes, and {free:,} are free ({error.strerror}). The "
            "checkpoints before it are whole: make room and resume the run."
        ) from error
    _sync_folder(path.parent)


def read(path: Path) -> Snapshot:
    """A checkpoint's numbers and state.

    Raises:
        BadPresetError: the file is damaged.
    """
    tensors = SafetensorsTensors(path)
    values = {name: tensors.read(name) for name in tensors.headers() if name != _STATE}
    return Snapshot(values, _state(tensors))


def read_state(path: Path) -> dict[str, Any]:
    """What `read` gives, without the numbers."""
    return _state(SafetensorsTensors(path))


def shapes(path: Path) -> Mapping[str, Any]:
    """The shape and dtype of each array, without its numbers."""
    return {
        name: head for name, head in SafetensorsTensors(path).headers().items() if name != _STATE
    }


def _state(tensors):
    if _STATE not in tensors.headers():
        raise BadPresetError(f"{tensors.path} is no checkpoint of a run: it has no {_STATE!r}.")
    try:
        return json.loads(tensors.read(_STATE).tobytes())
    except ValueError as error:  # of UTF-8 or JSON
        raise BadPresetError(f"{tensors.path} is damaged: its state can't be read.") from error


def _sync_folder(folder):
    """Have the new name itself on the disk; Windows does so by itself, and opens no folders."""
    if os.name != "nt":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
