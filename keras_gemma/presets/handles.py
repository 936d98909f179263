"""Handles: where a preset lies that is not on this machine, told in one line.

kaggle://OWNER/MODEL/FRAMEWORK/VARIATION[/VERSION]
hf://OWNER/REPOSITORY[@REVISION][/FILE]
gs://BUCKET/FOLDER, s3://…, https://HOST/FOLDER and other places with a folder of files
"""

import difflib
import hashlib
import os
import re
from pathlib import Path
from typing import NamedTuple

from keras_gemma.presets.errors import BadPresetError, PresetError

# Files of a model that are asked for by their own name, and come alone.
SINGLE_FILES = (".gguf", ".ckpt")
_SEGMENT = re.compile(r"[A-Za-z0-9][\w.+-]*\Z", re.ASCII)
_PAGES = {"huggingface.co": "hf", "www.kaggle.com": "kaggle", "kaggle.com": "kaggle"}
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*\Z")


class Handle(NamedTuple):
    """A handle in its parts."""

    text: str
    scheme: str
    place: str  # "owner/repository", "owner/model/framework/variation", or what follows the scheme
    revision: str | None  # a version of Kaggle's, a branch, tag or commit; None: the newest
    file: str | None  # one file instead of a preset

    @property
    def pinned(self) -> bool:
        """Whether what lies there can't change any more."""
        if self.scheme == "kaggle":
            return self.revision is not None
        return bool(self.revision and re.fullmatch("[0-9a-f]{40}", self.revision))

    @property
    def key(self) -> str:
        """A name for files about this handle."""
        words = re.sub(r"\W+", "_", f"{self.scheme} {self.place}", flags=re.ASCII)[:60]
        return f"{words}-{hashlib.sha256(self.text.encode()).hexdigest()[:12]}"


def parse(text: str) -> Handle:
    """The parts of a handle.

    >>> parse("hf://google/gemma-2b-it@main/model.gguf")[1:]
    ('hf', 'google/gemma-2b-it', 'main', 'model.gguf')
    >>> parse("kaggle://keras/gemma/keras/gemma_2b_en/3").pinned
    True

    Raises:
        PresetError: it is no handle; the form awaited is told.
    """
    scheme, mark, rest = text.partition("://")
    if not mark or not _SCHEME.match(scheme) or not rest.strip("/"):
        raise PresetError(f"{text!r} is no handle such as hf://google/gemma-2b-it.")
    if scheme == "modelscope":
        raise PresetError(
            f"{text}: ModelScope is not read directly. `pip install modelscope`, then "
            f"`modelscope download --model {rest}`, and give the folder that it made."
        )
    host, _, path = rest.partition("/")
    if scheme == "https" and host in _PAGES:  # copied from the browser
        scheme = _PAGES[host]
        rest = re.sub(r"^models/|/(tree|blob|resolve)(?=/|$)", "", path.split("?")[0])
        if scheme == "hf" and (named := re.fullmatch(r"([^/]+/[^/]+)/([^/]+)(/.+)?", rest)):
            rest = f"{named[1]}@{named[2]}{named[3] or ''}"
    reader = {"kaggle": _kaggle, "hf": _hugging_face}.get(scheme, _elsewhere)
    return reader(text, scheme, rest.rstrip("/"))


def _kaggle(text, scheme, rest):
    parts = rest.split("/")
    if len(parts) not in (4, 5) or not all(map(_SEGMENT.match, parts)):
        raise PresetError(
            f"{text!r} must have the form kaggle://OWNER/MODEL/FRAMEWORK/VARIATION[/VERSION], as "
            "kaggle://keras/gemma/keras/gemma_2b_en/3 has."
        )
    version = parts[4] if len(parts) == 5 else None
    if version and not version.isdecimal():
        raise PresetError(f"{text!r}: a version is a number, not {version!r}.")
    return Handle(text, scheme, "/".join(parts[:4]), version, None)


def _hugging_face(text, scheme, rest):
    owner, _, rest = rest.partition("/")
    repository, _, file = rest.partition("/")
    repository, mark, revision = repository.partition("@")
    good = _SEGMENT.match(owner) and _SEGMENT.match(repository)
    if not good or (mark and not _SEGMENT.match(revision)):
        raise PresetError(
            f"{text!r} must have the form hf://OWNER/REPOSITORY[@REVISION][/FILE], as "
            "hf://google/gemma-2b-it has."
        )
    return Handle(text, scheme, f"{owner}/{repository}", revision or None, _own(file, text))


def _elsewhere(text, scheme, rest):
    folder, _, last = rest.rpartition("/")
    if folder and last.endswith(SINGLE_FILES):
        return Handle(text, scheme, folder, None, _own(last, text))
    return Handle(text, scheme, rest, None, None)


def _own(file, where):
    return inside(file, where) if file else None


def inside(name: object, where: object) -> str:
    """A file's name, seen to stay in its folder on every system.

    Raises:
        BadPresetError: it is absolute, climbs out, or names a device.
    """
    text = name if isinstance(name, str) else ""
    steps = text.split("/")
    if len(text) > 512 or not all(_SEGMENT.match(step) and ".." not in step for step in steps):
        raise BadPresetError(f"{where} names a file {str(name)[:80]!r}, which no preset can have.")
    if any(re.fullmatch(r"(?i)(con|nul|aux|prn|com\d|lpt\d)(\..*)?", step) for step in steps):
        raise BadPresetError(f"{where} names the device {text!r} instead of a file.")
    return text


def home() -> Path:
    """The folder that this library keeps files in."""
    return Path(os.environ.get("KERAS_GEMMA_HOME", "~/.cache/keras_gemma")).expanduser()


def nearest(name: str, known: object) -> str:
    """` Did you mean …?`, or nothing where nothing is near.

    >>> nearest("gema", ["gemma", "llama"])
    " Did you mean 'gemma'?"
    """
    near = difflib.get_close_matches(name, list(known), 3, 0.5)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
