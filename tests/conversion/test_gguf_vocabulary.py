# ruff: noqa: F401, F811 (fixtures are imported by name)
"""A vocabulary in a GGUF file: there and back, and as llama.cpp's converter writes it."""

import numpy as np
import pytest
from vocabularies import (
    CODE,
    RUNS,
    TURNS,
    code_tokenizer,
    proto,
    real_proto,
    tokenizer,
    train,
)

from keras_gemma.conversion.gguf.vocabulary import vocabulary_metadata, vocabulary_proto
from keras_gemma.conversion.sentencepiece_proto import parse_model
from keras_gemma.presets import BadPresetError, folder
from keras_gemma.text import GemmaTokenizer, encode_turns

pytestmark = pytest.mark.once

TEXTS = [
    "<start_of_turn>user\nOnce upon a  time<end_of_turn>\n",
    "\n\n<table>\t\t[@BOS@] 1234 ▁ <unused0>   🦊",
]


@pytest.fixture
def bundled_proto():
    return (folder("gemma_instruct_tiny_en") / "assets/tokenizer/vocabulary.spm").read_bytes()


@pytest.fixture
def code_proto(code_tokenizer):
    return code_tokenizer.proto


@pytest.fixture(params=["proto", "code_proto", "bundled_proto", "real_proto"])
def any_proto(request):
    return request.getfixturevalue(request.param)


def test_there_and_back_is_the_same_vocabulary(any_proto):
    back = vocabulary_proto(vocabulary_metadata(any_proto), "x.gguf")
    model, again = parse_model(any_proto), parse_model(back)
    for field, value in model._asdict().items():
        np.testing.assert_array_equal(getattr(again, field), value, err_msg=field)


def test_there_and_back_gives_the_same_ids_and_control_tokens(any_proto):
    before = GemmaTokenizer(any_proto)
    after = GemmaTokenizer(vocabulary_proto(vocabulary_metadata(any_proto), "x.gguf"))
    assert after.control_tokens == before.control_tokens
    assert "<start_of_turn>" in after.control_tokens
    for text in TEXTS:
        assert after.encode(text) == before.encode(text)
        assert after.tokenize(text).tolist() == before.tokenize(text).tolist()
    messages = [{"role": "user", "content": "Hello <end_of_turn>"}]
    assert encode_turns(after, messages, True) == encode_turns(before, messages, True)


def test_the_keys_are_those_of_the_converter(proto):
    keys = vocabulary_metadata(proto, chat_template="{{ x }}")
    tokens, types = keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"]
    kind = dict(zip(tokens, types.tolist(), strict=True))
    # llama.cpp: 1 normal, 2 unknown, 3 control, 4 user-defined, 6 byte
    assert kind["<pad>"] == kind["<bos>"] == kind["<eos>"] == 3 and kind["<unk>"] == 2
    assert kind["<start_of_turn>"] == kind["<end_of_turn>"] == kind["<unused0>"] == 3
    assert kind["[@BOS@]"] == 3 and kind["<0x00>"] == 6
    assert kind["<table>"] == kind["\n"] == kind["  "] == 4
    assert kind["▁a"] == 1 and "▁▁" not in kind
    assert types.dtype == "int32" and keys["tokenizer.ggml.scores"].dtype == "float32"
    rest = {k.removeprefix("tokenizer."): v for k, v in keys.items() if np.ndim(v) == 0}
    assert rest == {
        "ggml.model": "llama",
        "ggml.pre": "default",
        "ggml.bos_token_id": 2,
        "ggml.eos_token_id": 1,
        "ggml.unknown_token_id": 3,
        "ggml.padding_token_id": 0,
        "ggml.eot_token_id": tokens.index("<end_of_turn>"),
        "ggml.add_bos_token": True,
        "ggml.add_eos_token": False,
        "ggml.add_space_prefix": False,
        "ggml.remove_extra_whitespaces": False,
        "chat_template": "{{ x }}",
    }


def test_the_tokens_of_code_are_named(code_proto):
    keys = vocabulary_metadata(code_proto)
    tokens = keys["tokenizer.ggml.tokens"]
    for name, key in zip(CODE, ("fim_pre", "fim_mid", "fim_suf", "fim_sep"), strict=True):
        assert keys[f"tokenizer.ggml.{key}_token_id"] == tokens.index(name)


def test_a_table_with_more_rows_gets_unused_tokens_that_vanish_on_reading(proto):
    size = len(parse_model(proto).pieces)
    keys = vocabulary_metadata(proto, size + 3)
    assert keys["tokenizer.ggml.tokens"][-1] == f"[PAD{size + 2}]"
    assert keys["tokenizer.ggml.token_type"][-3:].tolist() == [5, 5, 5]
    assert len(keys["tokenizer.ggml.scores"]) == size + 3
    assert vocabulary_proto(keys, "x") == vocabulary_proto(vocabulary_metadata(proto), "x")


def test_an_early_file_that_calls_all_names_normal_still_has_turns(proto):
    keys = vocabulary_metadata(proto)
    keys["tokenizer.ggml.token_type"] = np.where(
        np.isin(keys["tokenizer.ggml.token_type"], [2, 6]), keys["tokenizer.ggml.token_type"], 1
    )
    for name in ("<start_of_turn>", "<end_of_turn>"):
        # The converters of these days told of turns as of text.
        assert name in keys["tokenizer.ggml.tokens"]
    read = GemmaTokenizer(vocabulary_proto(keys, "x.gguf"))
    before = GemmaTokenizer(proto)
    messages = [{"role": "user", "content": "Hello"}]
    assert encode_turns(read, messages, True) == encode_turns(before, messages, True)
    assert read.end_of_turn_token_id in read.tokenize("hi<end_of_turn>").tolist()


def changed(keys, **changes):
    return keys | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}


CONTRADICTIONS = {
    "another tokenizer": ({"model": "gpt2"}, "tokenizer is 'gpt2' with list tokens"),
    "no tokens": ({"tokens": []}, "a list of pieces"),
    "tokens that are numbers": ({"tokens": np.zeros(4)}, "with ndarray tokens"),
    "few scores": ({"scores": np.zeros(3, "float32")}, "scores must be an array of"),
    "no scores": ({"scores": None}, "scores must be an array of"),
    "text for types": ({"token_type": ["a"]}, "token_type must be an array of"),
    "an id outside": ({"bos_token_id": 10**6}, "bos_token_id=1000000 must be the id"),
    "an id that is text": ({"eos_token_id": "1"}, "eos_token_id='1' must be the id"),
    "a switch that is none": ({"add_space_prefix": 1}, "add_space_prefix must be true or false"),
    "two unknown": ({"unknown_token_id": 5}, "one token of the type 'unknown'"),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_keys_that_contradict_each_other_are_refused(case, proto):
    changes, message = CONTRADICTIONS[case]
    with pytest.raises(BadPresetError, match=f"x.gguf: .*{message}"):
        vocabulary_proto(changed(vocabulary_metadata(proto), **changes), "x.gguf")


def test_scores_types_and_tokens_are_looked_at_one_by_one(proto):
    keys = vocabulary_metadata(proto)
    scores, types = (keys[f"tokenizer.ggml.{key}"].copy() for key in ("scores", "token_type"))
    scores[7], types[7] = np.nan, 9
    tokens = [*keys["tokenizer.ggml.tokens"][:-1], "<pad>"]
    for change, message in [
        ({"scores": scores}, "not finite"),
        ({"token_type": types}, "1 to 6, not 1 to 9"),
        ({"tokens": tokens}, "two tokens are alike"),
        ({"tokens": ["", *tokens[1:-1], "x"]}, "or one is empty"),
    ]:
        with pytest.raises(BadPresetError, match=message):
            vocabulary_proto(changed(keys, **change), "x.gguf")


@pytest.mark.parametrize(
    "options", [{"model_type": "unigram", "size": 350}, {"normalization_rule_name": "nmt_nfkc"}]
)
def test_what_gguf_can_not_say_is_not_written(options):
    with pytest.raises(ValueError, match="type BPE that change no letters"):
        vocabulary_metadata(train([*TURNS, *RUNS], **options))
