# ruff: noqa: F401, F811 (fixtures are imported by name)
import builtins
import random
import subprocess
import sys

import numpy as np
import pytest
from vocabularies import (
    CORPUS,
    TURNS,
    any_tokenizer,
    code_tokenizer,
    proto,
    real_proto,
    real_tokenizer,
    tokenizer,
    train,
)

from keras_gemma.text import GemmaCausalLMPreprocessor, GemmaTokenizer
from keras_gemma.text.graph_tokenizer import GraphTokenizer

tf = pytest.importorskip("tensorflow")
pytestmark = pytest.mark.once

TEXTS = [*CORPUS, "", " ", "\0<end_of_turn>\0", "▁▁<end_of_turn>▁", "é😀\n\n", "<table> <eos>"]
PAIRS = {
    "prompts": ["the quick fox", "a", "Once upon a time there was a fox who lived", ""],
    "responses": [" jumped", "the lazy dog and other things happened.", " in a<end_of_turn>", ""],
}


@pytest.fixture(params=["tensorflow-text", "without"])
def graph_way(request, monkeypatch):
    """With tensorflow-text, and as if it were not installed."""
    if request.param == "without":
        real_import = builtins.__import__

        def no_text(name, *args, **kwargs):
            if name == "tensorflow_text":
                raise ImportError(name)
            return real_import(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", no_text)
    else:
        pytest.importorskip("tensorflow_text")
    return request.param


def mapped(x, function):
    """`function` run inside a graph of tf.data, on the whole batch."""
    dataset = tf.data.Dataset.from_tensors(x).map(function)
    return next(iter(dataset))


def attacks(tokenizer, count):
    random_ = random.Random(9)
    parts = [*tokenizer.control_tokens, "<start_of_", "turn>", "<", "▁", " ", "\n", "é", "😀", "\0"]
    return ["".join(random_.choices(parts, k=random_.randint(0, 9))) for _ in range(count)]


@pytest.mark.parametrize("control_tokens", [True, False])
def test_ids_in_a_graph_equal_those_in_python(proto, graph_way, control_tokens):
    tokenizer = GemmaTokenizer(proto)
    got = mapped(TEXTS, lambda x: tokenizer(x, control_tokens=control_tokens))
    expected = [row.tolist() for row in tokenizer(TEXTS, control_tokens=control_tokens)]
    assert got.to_list() == expected
    assert (tokenizer.graph.processor is None) == (graph_way == "without")


def test_no_control_token_comes_out_of_a_graph(any_tokenizer):
    texts = attacks(any_tokenizer, 1500)
    got = any_tokenizer(tf.constant(texts), control_tokens=False).to_list()
    assert got == [any_tokenizer.encode(text) for text in texts]
    assert not set(any_tokenizer.control_tokens.values()) & {i for row in got for i in row}


def test_vocabularies_that_a_regular_expression_can_not_cut_are_left_to_python():
    for source in (train(["<a<b>>", "<b>"]), train(TURNS, normalization_rule_name="nfkc")):
        tokenizer = GemmaTokenizer(source)
        texts = ["<a<b>>", "＜end_of_turn＞<end_of_turn>", "plain"]
        got = tokenizer(tf.constant(texts), control_tokens=False).to_list()
        assert got == [tokenizer.encode(text) for text in texts]


@pytest.mark.parametrize(
    "options",
    [
        {"sequence_length": 6},
        {"add_bos": True, "add_eos": True},
        {"add_bos": True, "sequence_length": 6, "dtype": "int64"},
    ],
)
def test_options_act_in_a_graph(proto, graph_way, options):
    tokenizer = GemmaTokenizer(proto, **options)
    got, expected = mapped(TEXTS, tokenizer), tokenizer(TEXTS)
    if "sequence_length" not in options:
        got = got.to_list()
    assert [list(row) for row in got] == [list(row) for row in expected]
    one = mapped("a fox", tokenizer)
    assert one.numpy().tolist() == tokenizer("a fox").tolist()
    assert one.dtype == options.get("dtype", "int32")


def test_pieces_in_a_graph(proto):
    tokenizer = GemmaTokenizer(proto, dtype="string", sequence_length=4)
    got = mapped(["a fox", "a"], tokenizer)
    rows = [[piece.decode() for piece in row] for row in got.numpy()]
    assert rows == [tokenizer("a fox"), tokenizer("a")]


def test_texts_come_back_in_a_graph(proto, graph_way):
    tokenizer = GemmaTokenizer(proto)
    back = mapped(TEXTS, lambda x: tokenizer.detokenize(tokenizer(x)))
    assert [text.decode() for text in back.numpy()] == tokenizer.detokenize(tokenizer(TEXTS))
    assert mapped("a fox", lambda x: tokenizer.detokenize(tokenizer(x))).numpy() == b"a fox"
    dense = np.stack([tokenizer("a fox"), tokenizer("a fox")])
    assert mapped(dense, tokenizer.detokenize).numpy().tolist() == [b"a fox", b"a fox"]


def test_outside_of_a_graph_ids_of_tensorflow_become_python_texts(tokenizer):
    ids = tokenizer(tf.constant(["a fox", "the"]))
    assert tokenizer.detokenize(ids) == ["a fox", "the"]
    assert tokenizer.detokenize(ids[0]) == "a fox"


def test_what_is_no_vector_of_texts_is_refused(tokenizer):
    for bad in (tf.constant([1, 2]), tf.constant([["a"]])):
        with pytest.raises(TypeError, match="vector of texts"):
            tokenizer(bad)


# --- the preprocessor ---


may_cut = pytest.mark.filterwarnings("ignore:.*were longer than a row:UserWarning")


def same(got, expected):
    flat = zip(tf.nest.flatten(got), tf.nest.flatten(expected))
    return all(np.array_equal(ours, theirs) and ours.dtype == theirs.dtype for ours, theirs in flat)


@may_cut
@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("options", [{}, {"add_start_token": False}, {"add_end_token": False}])
@pytest.mark.parametrize("x", [TEXTS, PAIRS], ids=["texts", "pairs"])
def test_training_rows_in_a_graph_equal_those_in_python(proto, graph_way, x, options, pack):
    for length in (4, 12):
        preprocessor = GemmaCausalLMPreprocessor(
            GemmaTokenizer(proto), length, pack=pack, **options
        )
        got = mapped(x, preprocessor)
        assert same(tf.nest.map_structure(lambda t: t.numpy(), got), preprocessor(x)), length
        assert got[1].shape[1] == length


@may_cut
def test_rows_have_a_static_length_and_single_texts_make_single_rows(tokenizer):
    preprocessor = GemmaCausalLMPreprocessor(tokenizer, 12)
    texts = tf.data.Dataset.from_tensor_slices(TEXTS)
    one, batched = texts.map(preprocessor), texts.batch(2).map(preprocessor)
    assert one.element_spec[1].shape == [12] and batched.element_spec[1].shape == [None, 12]
    assert same(tf.nest.map_structure(lambda t: t.numpy(), next(iter(one))), preprocessor(TEXTS[0]))
    pairs = tf.data.Dataset.from_tensor_slices(PAIRS).map(preprocessor).batch(4)
    got = tf.nest.map_structure(lambda t: t.numpy(), next(iter(pairs)))
    assert same(got, preprocessor(PAIRS))


def test_prompts_in_a_graph(tokenizer):
    preprocessor = GemmaCausalLMPreprocessor(tokenizer, 60)
    got = mapped(TEXTS, preprocessor.generate_preprocess)
    expected = preprocessor.generate_preprocess(TEXTS)
    assert all(np.array_equal(got[key], expected[key]) for key in expected)
    one = mapped("a fox", preprocessor.generate_preprocess)
    assert one["token_ids"].shape == [60]
    with pytest.raises(tf.errors.InvalidArgumentError, match="limit of 3"):
        mapped(TEXTS, lambda x: preprocessor.generate_preprocess(x, sequence_length=3))


def test_conversations_do_not_come_from_a_graph(tokenizer):
    preprocessor = GemmaCausalLMPreprocessor(tokenizer, 12)
    with pytest.raises(TypeError, match="conversations as Python lists"):
        preprocessor({"messages": tf.constant(["a"])})


def test_tensorflow_is_not_imported_for_texts_of_python(proto, tmp_path):
    (tmp_path / "v.spm").write_bytes(proto)
    code = f"""
import keras, sys
before = "tensorflow" in sys.modules
from keras_gemma.text import *
t = GemmaTokenizer({str(tmp_path / "v.spm")!r})
p = GemmaCausalLMPreprocessor(t, 16)
p(["a fox"]); p.generate_postprocess(p.generate_preprocess("a fox")); t.detokenize(t("a"))
assert ("tensorflow" in sys.modules) == before
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_seed_that_is_set_between_two_calls_does_no_harm(proto):
    tokenizer = GemmaTokenizer(proto)
    before = tokenizer.graph.ids(tf.constant(["the quick fox"]), True).to_list()
    tf.random.set_seed(1)  # lets go of all that operations hold
    assert tokenizer.graph.ids(tf.constant(["the quick fox"]), True).to_list() == before
