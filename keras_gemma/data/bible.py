"""The World English Bible, chapter by chapter, from the Debian package `sword-text-web`.

The text is in the public domain; "World English Bible" is a trademark of its publisher, so what a
model makes of it must not be called by that name.
"""

import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MODULES = Path("/usr/share/sword")

# OSIS markup: notes and titles go with their content, of all else the tags only.
_WITH_CONTENT = re.compile(r"<(note|title)\b[^>]*>.*?</\1>", re.DOTALL)
_TAG = re.compile(r"<[^>]*>")
_SPACE = re.compile(r"\s+")


class Chapter(NamedTuple):
    """One chapter: where it stands, and its text on one line."""

    name: str
    text: str

    @property
    def held_out(self) -> bool:
        """Whether it is kept for evaluation: one of twenty, by a hash that never changes."""
        return zlib.crc32(self.name.encode()) % 20 == 0


def chapters(modules: Path = MODULES) -> Iterator[Chapter]:
    """Every chapter in the order of the books.

    Raises:
        FileNotFoundError: the package is not installed.
        ImportError: pysword is not installed.
    """
    if not modules.exists():
        raise FileNotFoundError(
            f"There is no {modules}: install the Debian package sword-text-web "
            "(apt-get install sword-text-web)."
        )
    try:
        from pysword.modules import SwordModules
    except ImportError:
        raise ImportError(
            'The Bible text is read with pysword: pip install "keras-gemma[corpus]".'
        ) from None
    library = SwordModules(str(modules))
    name = next(name for name in library.parse_modules() if "web" in name.lower())
    bible = library.get_bible_from_module(name)
    for books in bible.get_structure().get_books().values():
        for book in books:
            for chapter in range(1, book.num_chapters + 1):
                verses = bible.get_iter(books=[book.name], chapters=[chapter], clean=False)
                text = plain(" ".join(verses))
                if text:
                    yield Chapter(f"{book.name} {chapter}", text)


def plain(osis: str) -> str:
    """The text of OSIS markup.

    >>> plain('Yahweh’s <w lemma="x">sword</w><note>or, blade</note> <q>fell</q>.')
    'Yahweh’s sword fell.'
    >>> plain('God<note>Elohim</note>created.')
    'God created.'
    """
    # A note may stand where a space was, as after "God" in the first verse of all.
    text = _TAG.sub("", _WITH_CONTENT.sub("\0", osis))
    text = re.sub(r"(?<=\S)\0+(?=[\w“‘])", " ", text).replace("\0", "")
    return _SPACE.sub(" ", text).strip()
