"""Example sentences of WordNet 3.0, from the Debian package `wordnet-base`."""

import re
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path("/usr/share/wordnet")

_EXAMPLE = re.compile(r'"([^"]+)"')
# The list of examples was not made for children.
_UNWANTED = re.compile(
    r"\b(sex\w*|rape\w*|nud\w+|naked|whore\w*|bitch\w*|shit\w*|fuck\w*|damn\w*|nigger\w*|slut\w*|"
    r"bastard\w*|kill\w*|murder\w*|suicid\w*|drug\w*|drunk\w*|nazi\w*|hell)\b",
    re.IGNORECASE,
)


def sentences(folder: Path = FOLDER) -> Iterator[str]:
    """Examples of at least five words, each begun with a capital and ended with a point.

    Raises:
        FileNotFoundError: the package is not installed.
    """
    files = [folder / f"data.{part}" for part in ("adj", "adv", "noun", "verb")]
    for path in files:
        if not path.exists():
            raise FileNotFoundError(
                f"There is no {path}: install the Debian package wordnet-base "
                "(apt-get install wordnet-base)."
            )
        for line in path.read_text(encoding="latin-1").splitlines():
            for example in _EXAMPLE.findall(line.partition(" | ")[2]):
                if len(example.split()) >= 5 and not _UNWANTED.search(example):
                    yield _sentence(example.strip())


def _sentence(text):
    text = text[0].upper() + text[1:]
    return text if text[-1] in ".!?" else text + "."
