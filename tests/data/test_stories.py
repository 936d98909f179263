"""The story generator, and the scorer that reads its stories as it reads a model's."""

import random
import re

import pytest

from keras_gemma.data.entities import entities
from keras_gemma.data.stories import LONGEST, SHORTEST, plots, stories, words

pytestmark = pytest.mark.once
TOLD = list(stories(300, seed=900))


def exchanged(text, old, new):
    """The text with the last `old` replaced, which is a word."""
    *_, last = re.finditer(rf"\b{old}\b", text)
    return text[: last.start()] + new + text[last.end() :]


def test_the_same_seed_tells_the_same_story():
    assert list(stories(20, seed=3)) == list(stories(20, seed=3))
    assert list(stories(5, seed=3, start=7)) == list(stories(12, seed=3))[7:]
    assert len(set(TOLD)) == len(TOLD)


def test_there_are_plots_and_words_enough():
    table = words()
    assert len(plots()[1]) >= 25
    assert len(table["girl"]) + len(table["boy"]) >= 90
    assert len(table["object"]) >= 90


def test_stories_keep_their_length_and_fill_every_slot():
    for text in TOLD:
        assert SHORTEST <= len(text.split()) <= LONGEST
        assert not set("{}<>[]|") & set(text)


def test_generated_stories_are_whole_and_consistent():
    for text in TOLD:
        told = entities(text)
        assert told.whole and told.consistent, (told.strangers, text)


def test_one_late_name_exchanged_is_found():
    table = words()
    for number, text in enumerate(TOLD):
        others = [name for name in table["girl"] + table["boy"] if name not in text]
        other = random.Random(number).choice(others)
        assert other in entities(exchanged(text, entities(text).names[0], other)).strangers


def test_one_late_object_exchanged_is_found():
    for number, text in enumerate(TOLD):
        others = [noun for noun in words()["object"] if noun not in text]
        other = random.Random(number).choice(others)
        wrong = exchanged(text, entities(text).objects[0], other)
        assert not entities(wrong).consistent


@pytest.mark.parametrize(
    "text, strangers",
    [
        ("There was a girl named Lena. Lenia laughed.", ("Lenia",)),
        ("The kite was red.", ("kite",)),
        ("Tom had a red kite. He was a boy named Tom.", ("Tom",)),
        ("There was a fox named Tom. The wolf ran.", ("wolf",)),
        ("She had a kite. The kites were lost.", ()),
        ("She had a red kite. The blue kite was lost.", ("blue kite",)),
        ("She had a kite. She had an apple. The apples and the hats were gone.", ("hat",)),
    ],
)
def test_what_was_not_introduced_is_named(text, strangers):
    assert entities(text).strangers == strangers


def test_a_short_or_empty_text_is_no_whole_story():
    assert not entities("").whole
    assert not entities("There was a girl named Lena. She had a kite.").whole
