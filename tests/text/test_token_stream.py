# ruff: noqa: F401, F811 (fixtures are imported by name)
import random

import numpy as np
import pytest
from vocabularies import (
    TURNS,
    any_tokenizer,
    code_tokenizer,
    proto,
    real_proto,
    real_tokenizer,
    tokenizer,
    train,
)

from keras_gemma.text import GemmaTokenizer, StreamDecoder

pytestmark = pytest.mark.once


def streamed(tokenizer, ids):
    decoder = StreamDecoder(tokenizer)
    return [decoder.push(index) for index in ids] + [decoder.finish()]


def test_the_pieces_joined_are_the_text_of_all_ids(any_tokenizer):
    random_ = random.Random(2)
    size, bytes_ = any_tokenizer.vocabulary_size(), list(any_tokenizer.byte_values)
    for _ in range(1500):
        draw = [lambda: random_.randrange(size), lambda: random_.choice(bytes_)]
        ids = [random_.choice(draw)() for _ in range(random_.randint(0, 12))]
        assert "".join(streamed(any_tokenizer, ids)) == any_tokenizer.detokenize(ids)


def test_a_character_of_four_bytes_comes_out_whole(tokenizer):
    ids = tokenizer("a😀é")
    assert len(ids) == 7
    assert streamed(tokenizer, ids) == ["a", "", "", "", "😀", "", "é", ""]


def test_a_character_that_is_never_finished_is_marked(tokenizer):
    byte = {value: index for index, value in tokenizer.byte_values.items()}
    start = [byte[0xF0], byte[0x9F]]
    letter = int(tokenizer("a")[0])
    assert streamed(tokenizer, start) == ["", "", "��"]
    assert streamed(tokenizer, [*start, letter]) == ["", "", "��a", ""]
    assert streamed(tokenizer, [*start, byte[0x41]]) == ["", "", "��A", ""]
    for wrong in ([0xC0, 0x80], [0xED, 0xA0, 0x80], [0xF5], [0xE2, 0xF0, 0x9F, 0x98, 0x80]):
        ids = [byte[value] for value in wrong]
        assert "".join(streamed(tokenizer, ids)) == tokenizer.detokenize(ids)


def test_control_tokens_are_shown_as_detokenize_shows_them(tokenizer):
    ids = [2, int(tokenizer("a")[0]), tokenizer.end_of_turn_token_id, 1, 0]
    assert streamed(tokenizer, ids) == ["", "a", "<end_of_turn>", "", "", ""]


def test_vocabularies_that_put_a_space_before_the_text(tokenizer):
    dummy = GemmaTokenizer(train(TURNS, add_dummy_prefix=True, remove_extra_whitespaces=True))
    for text in ("once upon a time", "the fox", "é 😀 fox"):
        ids = dummy(text)
        assert "".join(streamed(dummy, ids)) == dummy.detokenize(ids) == text


def test_numpy_integers_are_taken_and_wrong_ids_refused(tokenizer):
    assert "".join(streamed(tokenizer, np.array(tokenizer("a fox"), np.int64))) == "a fox"
    with pytest.raises(ValueError, match="outside the vocabulary"):
        StreamDecoder(tokenizer).push(tokenizer.vocabulary_size())
