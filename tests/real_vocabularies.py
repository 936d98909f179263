"""Gemma's own vocabularies, which are never part of this repository: from the wheel that ships them.

Fetched once, into a cache folder of this user (XDG_CACHE_HOME, ~/.cache). KERAS_GEMMA_TOKENIZER and
KERAS_GEMMA3_TOKENIZER name files that lie elsewhere; then nothing is fetched.

python tests/real_vocabularies.py gemma      # prints the path
"""

import functools
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

WHEEL = "maxtext==0.2.5"
SECONDS = 120


class Vocabulary(NamedTuple):
    member: str  # of the wheel
    sha256: str
    variable: str  # of the environment


VOCABULARIES = {
    "gemma": Vocabulary(
        "maxtext/assets/tokenizers/tokenizer.gemma",
        "61a7b147390c64585d6c3543dd6fc636906c9af3865a5548f27f31aee1d4c8e2",
        "KERAS_GEMMA_TOKENIZER",
    ),
    "gemma3": Vocabulary(
        "maxtext/assets/tokenizers/tokenizer.gemma3",
        "a96dfa1c296977bd225176202b305aeb29f3f49cc7d54b15bd31e998f91b9736",
        "KERAS_GEMMA3_TOKENIZER",
    ),
}


class NotHere(Exception):
    """A vocabulary is not on this machine and can't be fetched; it says which and why."""


def path_of(name: str) -> Path:
    """The file of a vocabulary, fetched where it is not here yet.

    Raises:
        NotHere: there is no network, or the file has another sum.
    """
    wanted = VOCABULARIES[name]
    if given := os.environ.get(wanted.variable):
        return Path(given)
    place = cache() / wanted.sha256[:16] / Path(wanted.member).name
    if not is_good(place, wanted):
        fetch()
    if not is_good(place, wanted):
        raise NotHere(f"{wanted.member} of {WHEEL} has another sha256 than {wanted.sha256}")
    return place


def cache() -> Path:
    """The folder that they are kept in."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "keras_gemma_tests"


def is_good(place: Path, wanted: Vocabulary) -> bool:
    """Whether the file is there, and is the one."""
    return place.is_file() and hashlib.sha256(place.read_bytes()).hexdigest() == wanted.sha256


@functools.cache  # one try in a process, whatever becomes of it
def fetch() -> None:
    """All vocabularies of the wheel into the cache; each appears whole, whoever else fetches it."""
    options = "--no-deps --python-version 3.12 --only-binary=:all: --quiet --retries 1 --timeout 20"
    cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache()) as folder:
        command = [sys.executable, "-m", "pip", "download", WHEEL, *options.split()]
        try:
            subprocess.run(
                [*command, "--dest", folder],
                check=True,
                capture_output=True,
                timeout=SECONDS,
                env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
            )
        except (OSError, subprocess.SubprocessError) as error:
            names = " or ".join(wanted.variable for wanted in VOCABULARIES.values())
            raise NotHere(
                f"the wheel {WHEEL}, which ships Gemma's vocabularies, can't be fetched "
                f"({type(error).__name__}); {names} may name a file instead"
            ) from None
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            for wanted in VOCABULARIES.values():
                place = cache() / wanted.sha256[:16] / Path(wanted.member).name
                place.parent.mkdir(exist_ok=True)
                part = Path(folder, place.name)
                part.write_bytes(archive.read(wanted.member))
                part.replace(place)


if __name__ == "__main__":
    print(path_of(sys.argv[1]))
