"""One of a few texts, in whatever tokens."""

import itertools

import numpy as np
import pytest
from walks import ids_of, walk

from keras_gemma.constraints import Choices

pytestmark = pytest.mark.once

WORDS = ["yes", "yesterday", "no", " no", "größe", "日本", "😀!", "a\nb", "two words"]


def test_every_walk_spells_a_choice_and_every_choice_is_reached(any_tokenizer):
    choices = Choices(WORDS)
    random = np.random.default_rng(0)
    found = set()
    for _ in range(150):
        ids = walk(choices.matcher(any_tokenizer), any_tokenizer, random)
        found.add(any_tokenizer.detokenize(ids))
    assert found == set(WORDS)


def test_any_cut_into_tokens_is_right(tiny):
    pieces = tiny.get_vocabulary()
    text = "yesterday"
    cuts = 0
    for count in range(1, len(text) + 1):
        for places in itertools.combinations(range(1, len(text)), count - 1):
            parts = [text[a:b] for a, b in itertools.pairwise([0, *places, len(text)])]
            if not all(part in pieces for part in parts):
                continue
            cuts += 1
            matcher = Choices(WORDS).matcher(tiny)
            for part in parts:
                assert pieces.index(part) in ids_of(matcher.allowed())
                matcher.accept(pieces.index(part))
            assert matcher.finished
    assert cuts > 3


def test_bytes_are_a_cut_too(tiny):
    of_byte = {byte: index for index, byte in tiny.byte_values.items()}
    text, other = "日本".encode(), "日曜".encode()
    matcher = Choices([text.decode(), other.decode()]).matcher(tiny)
    forced = b"".join(matcher.vocabulary.tokens[index] for index in matcher.forced())
    assert text.startswith(forced) and other.startswith(forced)
    assert len(forced) == 4  # a letter, and the byte with which both others begin
    for byte in text:
        assert of_byte[byte] in ids_of(matcher.allowed())
        matcher.accept(of_byte[byte])
    assert matcher.finished


def test_allowed_is_what_a_search_over_all_tokens_finds(tiny):
    texts = [word.encode() for word in WORDS]
    matcher = Choices(WORDS).matcher(tiny)
    for prefix in ("", "y", "yes"):
        expected = [
            index
            for index, token in enumerate(matcher.vocabulary.tokens[: matcher.vocabulary.size])
            if token and any(text.startswith(prefix.encode() + token) for text in texts)
        ]
        ends = [tiny.end_token_id, tiny.end_of_turn_token_id] if prefix in WORDS else []
        assert ids_of(matcher.allowed()).tolist() == sorted(expected + ends)
        if prefix != "yes":
            matcher.accept(tiny.token_to_id("y" if not prefix else "es"))


def test_a_choice_that_begins_another_may_end_or_go_on(tiny):
    matcher = Choices(["yes", "yesterday"]).matcher(tiny)
    for index in tiny.encode("yes"):
        matcher.accept(index)
    assert not matcher.finished
    assert {tiny.end_token_id, tiny.end_of_turn_token_id} < set(ids_of(matcher.allowed()))
    matcher.accept(tiny.end_of_turn_token_id)
    assert matcher.finished


def test_the_empty_text_is_a_choice(tiny):
    alone, among = Choices([""]).matcher(tiny), Choices(["", "no"]).matcher(tiny)
    assert alone.finished
    assert ids_of(alone.allowed()).tolist() == [tiny.end_token_id, tiny.end_of_turn_token_id]
    assert not among.finished
    among.accept(tiny.end_token_id)
    assert among.finished


def test_forced_tokens_are_the_tokenizers_own_cut(any_tokenizer):
    text = "Once upon a time there was a fox."
    assert Choices([text]).matcher(any_tokenizer).forced() == any_tokenizer.encode(text)
    two = Choices([f"{text} Yes", f"{text} No"]).matcher(any_tokenizer)
    forced = two.forced()
    assert 0 < len(forced) <= len(any_tokenizer.encode(text))
    for index in forced:
        two.accept(index)
    assert two.forced() == []
    assert Choices(["yes", "no"]).matcher(any_tokenizer).forced() == []


def test_many_choices(gemma):
    words = [f"{first} {second}" for first in range(100) for second in range(100)]
    choices, random = Choices(words), np.random.default_rng(1)
    for _ in range(5):
        assert gemma.detokenize(walk(choices.matcher(gemma), gemma, random)) in words


@pytest.mark.parametrize(
    "choices, error, told",
    [
        ([], ValueError, "empty"),
        (iter(()), ValueError, "empty"),
        (["a", 1], TypeError, "Choice 1 is 1"),
        (["a", None], TypeError, "Choice 1 is None"),
        ([b"a"], TypeError, "Choice 0"),
        ("yes", TypeError, "list of texts"),
        (["a\ud800"], ValueError, "no Unicode"),
    ],
    ids=repr,
)
def test_wrong_choices_are_refused(choices, error, told):
    with pytest.raises(error, match=told):
        Choices(choices)


def test_a_choice_that_the_tokenizer_cant_spell(without_bytes):
    with pytest.raises(ValueError, match="can't spell the choice '日本'"):
        Choices(["fox", "日本"]).matcher(without_bytes)


def test_no_walk_ends_nowhere_without_bytes(without_bytes):
    words = ["the fox", "fox", "forest"]
    assert not Choices(words).matcher(without_bytes).vocabulary.is_complete
    random = np.random.default_rng(2)
    pieces = without_bytes.get_vocabulary()
    for _ in range(30):
        matcher = Choices(words).matcher(without_bytes)
        ids = []
        while not matcher.finished:
            ids.append(int(random.choice(ids_of(matcher.allowed()))))
            matcher.accept(ids[-1])
        assert "".join(pieces[i] for i in ids).replace("▁", " ").removesuffix("<eos>") in words
