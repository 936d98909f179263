"""Example sentences and definitions of WordNet 3.0, from the Debian package `wordnet-base`."""

import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

FOLDER = Path("/usr/share/wordnet")

_EXAMPLE = re.compile(r'"([^"]+)"')
# The list of examples was not made for children.
_UNWANTED = re.compile(
    r"\b(sex\w*|rape\w*|nud\w+|naked|whore\w*|bitch\w*|shit\w*|fuck\w*|damn\w*|nigger\w*|slut\w*|"
    r"bastard\w*|kill\w*|murder\w*|suicid\w*|drug\w*|drunk\w*|nazi\w*|hell)\b",
    re.IGNORECASE,
)


# The files that lexicographers wrote it in, by number (lexnames(5WN)).
CLASSES = tuple(
    "adj.all adj.pert adv.all noun.Tops noun.act noun.animal noun.artifact noun.attribute "
    "noun.body noun.cognition noun.communication noun.event noun.feeling noun.food noun.group "
    "noun.location noun.motive noun.object noun.person noun.phenomenon noun.plant "
    "noun.possession noun.process noun.quantity noun.relation noun.shape noun.state "
    "noun.substance noun.time verb.body verb.change verb.cognition verb.communication "
    "verb.competition verb.consumption verb.contact verb.creation verb.emotion verb.motion "
    "verb.perception verb.possession verb.social verb.stative verb.weather adj.ppl".split()
)


class Definition(NamedTuple):
    """What a set of synonyms means, without its examples, and the number of its class."""

    text: str
    label: int

    @property
    def tenth(self) -> int:
        """0 to 9 by its text, so that the same text never stands on two sides."""
        return zlib.crc32(self.text.encode()) % 10


def definitions(folder: Path = FOLDER) -> Iterator[Definition]:
    """The definition of every set of synonyms, in the order of the files.

    Raises:
        FileNotFoundError: the package is not installed.
    """
    for facts, gloss in _entries(folder):
        yield Definition(re.split(r';? *"', gloss)[0].strip(), int(facts.split()[1]))


def sentences(folder: Path = FOLDER) -> Iterator[str]:
    """Examples of at least five words, each begun with a capital and ended with a point.

    Raises:
        FileNotFoundError: the package is not installed.
    """
    for _, gloss in _entries(folder):
        for example in _EXAMPLE.findall(gloss):
            if len(example.split()) >= 5 and not _UNWANTED.search(example):
                yield _sentence(example.strip())


def _entries(folder):
    """Facts and gloss of every set of synonyms; lines that begin with spaces are the licence."""
    for part in ("adj", "adv", "noun", "verb"):
        path = folder / f"data.{part}"
        if not path.exists():
            raise FileNotFoundError(
                f"There is no {path}: install the Debian package wordnet-base "
                "(apt-get install wordnet-base)."
            )
        for line in path.read_text(encoding="latin-1").splitlines():
            facts, _, gloss = line.partition(" | ")
            if not line.startswith("  "):
                yield facts, gloss


def _sentence(text):
    text = text[0].upper() + text[1:]
    return text if text[-1] in ".!?" else text + "."
