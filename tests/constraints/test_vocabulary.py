"""The bytes of tokens, against what the tokenizer makes of them."""

import gc
import random
import weakref

import pytest
from vocabularies import TURNS, train

from keras_gemma.constraints.vocabulary import Vocabulary, packed, vocabulary_of
from keras_gemma.text import GemmaTokenizer

pytestmark = pytest.mark.once


def test_the_bytes_joined_are_the_text(any_tokenizer):
    vocabulary = vocabulary_of(any_tokenizer)
    chance = random.Random(0)
    spelling = [i for i, token in enumerate(vocabulary.tokens) if token]
    bytes_ = list(any_tokenizer.byte_values)
    for _ in range(1000):
        ids = [chance.choice(chance.choice([spelling, bytes_])) for _ in range(8)]
        text = b"".join(vocabulary.tokens[i] for i in ids).decode(errors="replace")
        broken = "�" in text  # of a broken character one mark comes here, one a byte there
        assert broken or any_tokenizer.detokenize(ids) == text


def test_control_tokens_spell_nothing(any_tokenizer):
    vocabulary = vocabulary_of(any_tokenizer)
    silent = {i for i, token in enumerate(vocabulary.tokens) if not token}
    assert silent == {*any_tokenizer.control_tokens.values(), any_tokenizer.unk_token_id}
    assert {any_tokenizer.end_token_id, any_tokenizer.end_of_turn_token_id} < silent
    assert vocabulary.is_complete


def test_a_text_is_cut_as_the_tokenizer_does(any_tokenizer):
    vocabulary = vocabulary_of(any_tokenizer)
    for text in ("", "Once upon a time", " two  spaces\n", "日本 😀", "<end_of_turn>", "▁"):
        assert vocabulary.encode(text) == any_tokenizer.encode(text)


def test_a_cut_spells_the_text_also_where_the_tokenizer_changes_it(without_bytes):
    changing = GemmaTokenizer(train(TURNS, normalization_rule_name="nmt_nfkc"))
    for tokenizer, texts in (
        (without_bytes, ("the fox", " a", "b😀c", "日")),
        (changing, ("ｆｏｘ", "the ﬁre", "  two")),
    ):
        vocabulary = vocabulary_of(tokenizer)
        for text in texts:
            ids = vocabulary.encode(text)
            assert b"".join(vocabulary.tokens[i] for i in ids) == text.encode()


def test_bytes_without_a_token_stand_behind_the_others(without_bytes):
    vocabulary = vocabulary_of(without_bytes)
    assert not vocabulary.is_complete
    assert len(vocabulary.tokens) > vocabulary.size == without_bytes.vocabulary_size()
    assert vocabulary.can_spell(b"the fox") and not vocabulary.can_spell(b"the \xf0\x9f")
    assert vocabulary.ids_of_model(b"\xf0") == [] != vocabulary.ids[b"\xf0"]


def test_it_is_made_once_and_goes_with_its_tokenizer():
    tokenizer = GemmaTokenizer(train(TURNS))
    vocabulary = vocabulary_of(tokenizer)
    assert vocabulary_of(tokenizer) is vocabulary
    tokenizer.set_proto(train(["<end_of_turn>"]))
    assert vocabulary_of(tokenizer) is not vocabulary
    gone = weakref.ref(vocabulary_of(tokenizer))
    del tokenizer
    gc.collect()
    assert gone() is None


def test_bits_are_those_of_whole_numbers():
    chance = random.Random(1)
    for size in (1, 31, 32, 33, 400):
        ids = sorted(chance.sample(range(size), chance.randint(0, size)))
        words = packed(ids, size)
        assert [v for v in range(size) if words[v // 32] >> (v % 32) & 1] == ids
        assert len(words) == -(-size // 32)


def test_a_letter_may_have_a_piece_and_a_byte(tiny):
    (of_byte,) = (index for index, byte in tiny.byte_values.items() if byte == ord("A"))
    assert set(Vocabulary(tiny).ids[b"A"]) == {tiny.token_to_id("A"), of_byte}
