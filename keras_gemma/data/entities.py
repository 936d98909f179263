"""Does a story keep track? Who and what it mentions, and whether each was introduced before.

Introduced means: as the generator of `stories.py` does it, "a fox named Tom", "a red kite". All
of it is read from the text alone, so that what a model wrote is judged like what the grammar did.
"""

import functools
import itertools
import re
from collections.abc import Iterator
from typing import NamedTuple

from keras_gemma.data import stories

# Names that the grammar itself writes with a capital, and that nobody is called.
_CALENDAR = {"Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday", "I"}
_TOKEN = re.compile(r"[A-Za-z]+(?:'[a-z]+)?|[.!?,;:\"\n]")
# Two places where the grammar uses a word of its lists for something else.
_OTHER_SENSE = (("Will", "you"), ("my", "bag"))
_BEFORE_NAME = (("named",), ("name", "was"), ("name", "is"))


class Entities(NamedTuple):
    """What was found: names and objects introduced, and each mention that came too early."""

    words: int
    names: tuple[str, ...]
    objects: tuple[str, ...]
    strangers: tuple[str, ...]

    @property
    def consistent(self) -> bool:
        """Whether nobody and nothing was spoken of before it was introduced."""
        return not self.strangers

    @property
    def whole(self) -> bool:
        """Whether it is a story to be judged: 80 words, two names and two objects."""
        return self.words >= 80 and len(self.names) >= 2 and len(self.objects) >= 2


class _Lexicon(NamedTuple):
    names: frozenset
    objects: frozenset
    creatures: frozenset  # foxes and bakers: must be introduced, and are no objects
    colours: frozenset
    adjectives: frozenset
    ordinary: frozenset  # all other words of the grammar


@functools.cache
def _lexicon() -> _Lexicon:
    table = stories.words()
    colours = frozenset(table["colour"])
    objects = frozenset(table["object"])
    creatures = frozenset(table["animal"] + table["woman"] + table["man"])
    phrases, plots = stories.plots()
    trees = [*phrases.values(), *(plot.paragraphs for plot in plots)]
    written = {word.lower() for text in _strings(trees) for word in re.findall("[A-Za-z]+", text)}
    listed = {word for name in ("weather", "glad", "sad", "look", "nature") for word in table[name]}
    places = {word for place in table["place"] for word in " ".join(place).split()}
    spoken = {"he", "she", "him", "her", "his", "my", "your", "that", "this", "they"}
    spoken |= {"the", "a", "an", "and", "two", "friends", "girl", "boy", "named", "whose", "name"}
    return _Lexicon(
        frozenset(table["girl"] + table["boy"]),
        objects,
        creatures,
        colours,
        colours | frozenset(table["look"] + table["nature"]),
        frozenset(written | listed | places | spoken),
    )


def _strings(tree) -> Iterator[str]:
    """The literal text of parsed plots; names of slots and phrases are no text."""
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, tuple) and tree and tree[0] in ("slot", "phrase"):
        return
    elif isinstance(tree, tuple) and tree and tree[0] == "pick":
        yield from _strings(tree[1])
    else:
        for part in tree:
            yield from _strings(part)


def entities(story: str) -> Entities:
    """Names and objects of a story, and those mentioned before they were introduced.

    A mention in another colour than the one introduced is one of something else. A word with a
    capital that the grammar does not know is a name nobody was given.

    >>> told = entities("There was a girl named Lena. Lena had a red kite. Emma took the kite.")
    >>> told.names, told.objects, told.strangers
    (('Lena',), ('kite',), ('Emma',))
    >>> entities("There was a boy named Tom. Tom had a red hat. The blue hat was wet.").strangers
    ('blue hat',)
    """
    known, tokens = _lexicon(), _TOKEN.findall(story)
    names, things, strangers = {}, {}, []
    for place, token in enumerate(tokens):
        bare = token.split("'")[0]
        around = tokens[max(place - 1, 0) : place + 2]
        if any(bare in pair and pair in itertools.pairwise(around) for pair in _OTHER_SENSE):
            continue
        if _is_name(bare, place, tokens, known):
            before = tokens[max(place - 2, 0) : place]
            if any(tuple(before[-len(sign) :]) == sign for sign in _BEFORE_NAME):
                names[bare] = None
            elif bare not in names:
                strangers.append(bare)
        elif noun := _noun(bare.lower(), known):
            adjectives, introduced = _described(tokens, place, known)
            colours = {word for word in adjectives if word in known.colours}
            if introduced and noun == bare.lower():
                things.setdefault(noun, set()).update(colours)
            elif noun not in things:
                strangers.append(noun)
            elif not colours <= things[noun]:
                strangers.append(" ".join([*sorted(colours), noun]))
    objects = tuple(noun for noun in things if noun in known.objects)
    return Entities(len(story.split()), tuple(names), objects, tuple(strangers))


def _is_name(word, place, tokens, known) -> bool:
    if not word[0].isupper() or word in _CALENDAR:
        return False
    if word in known.names:
        return True
    word = word.lower()
    return not (_noun(word, known) or word in known.ordinary or word in known.adjectives)


def _noun(word, known) -> str | None:
    """The thing a word stands for, its plural included."""
    for noun in (word, word.removesuffix("s"), word.removesuffix("es")):
        if noun in known.objects or noun in known.creatures:
            return noun
    return None


def _described(tokens, place, known) -> tuple[list[str], bool]:
    """Adjectives before a noun, and whether "a" or "an" stands before these."""
    adjectives = []
    while place > 0 and tokens[place - 1].lower() in known.adjectives:
        place -= 1
        adjectives.append(tokens[place].lower())
    return adjectives, place > 0 and tokens[place - 1].lower() in ("a", "an")
