"""Questions with exact answers: right, repeatable, and held out where they say so."""

import itertools
import re

import pytest

from keras_gemma.data import skills
from keras_gemma.data.skills import COMBINED, SKILLS, questions

pytestmark = pytest.mark.once


def test_there_are_enough_skills_and_enough_held_out():
    assert len(SKILLS) >= 12
    assert len(COMBINED) >= 4


@pytest.mark.parametrize("skill", SKILLS)
def test_the_same_seed_asks_the_same(skill):
    assert questions(skill, 5, 20, True) == questions(skill, 5, 20, True)
    assert questions(skill, 5, 20, True) != questions(skill, 6, 20, True)


@pytest.mark.parametrize("skill", COMBINED)
def test_evaluation_asks_nothing_that_was_trained(skill):
    trained = {question.question for question in questions(skill, 1, 3000, False)}
    assert not trained & {question.question for question in questions(skill, 2, 300, True)}


def items(question):
    listed = re.search(r"(?:list: |words: )([^?.]*)", question)[1]
    return re.split(r",? ", listed)


ANSWERS = {
    "spell a word": lambda q: "-".join(re.search(r"(?:[Ss]pell|word) (\w+)[.?]", q)[1]),
    "upper case": lambda q: "-".join(re.search(r"(?:Write|Put) (\w+)", q)[1].upper()),
    "first of a list": lambda q: items(q)[0],
    "last of a list": lambda q: items(q)[-1],
    "count a list": lambda q: ["zero", "one", "two", "three", "four", "five"][len(items(q))],
    "repeat words": lambda q: " ".join(items(q)),
    "in a list": lambda q: "Yes." if re.match(r"Is (\w+)", q)[1] in items(q) else "No.",
    "bigger number": lambda q: str(max(map(int, re.findall(r"\d+", q)))),
    "next number": lambda q: str(int(re.search(r"\d+", q)[0]) + 1),
    "add two digits": lambda q: str(sum(map(int, re.findall(r"\d+", q)))),
}


@pytest.mark.parametrize("skill", ANSWERS)
def test_answers_are_right(skill):
    for asked in questions(skill, 3, 100, False):
        question = asked.question.replace("the word ", "")
        assert asked.answer == ANSWERS[skill](question), asked


def test_conversations_alternate_and_hold_no_held_out_item():
    held_out = {q.question for skill in COMBINED for q in questions(skill, 4, 300, True)}
    for messages in itertools.islice(skills.conversations(9), 500):
        assert [m["role"] for m in messages] == ["user", "model"] * (len(messages) // 2)
        assert not held_out & {message["content"] for message in messages}
