"""Rows from a recipe: the same each time, whole documents, nothing lost between cache and file."""

import itertools

import numpy as np
import pytest

from keras_gemma.data import corpus

pytestmark = pytest.mark.once

# Sources that need no package.
RECIPE = {
    "seed": 4,
    "corpus": [{"source": "stories", "share": 0.6}, {"source": "skills", "share": 0.4}],
    "loss": "all",
    "tokenizer": {"vocabulary_size": 600, "characters": 40_000},
    "row_length": 65,
    "tokens": 6000,
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def tokenizer(cache):
    return corpus.tokenizer(RECIPE, cache)


@pytest.fixture(scope="module")
def rows(tokenizer, cache):
    return corpus.rows(RECIPE, tokenizer, cache)


def test_the_tokenizer_has_gemmas_special_tokens(tokenizer):
    assert tokenizer.vocabulary_size() == 600
    special = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", "\n")
    assert [tokenizer.token_to_id(token) for token in special] == list(range(7))


def test_the_tokenizer_gives_any_text_back(tokenizer):
    for text in ("  two  spaces", "123 apples", "Zoë’s 日本 ☃", "a\nb\n\nc"):
        assert tokenizer.detokenize(tokenizer.encode(text)) == text


def test_digits_stand_alone(tokenizer):
    assert len(tokenizer.encode("2047")) >= 4


def test_the_same_recipe_makes_the_same_tokenizer_and_rows(tokenizer, rows, tmp_path):
    again = corpus.tokenizer(RECIPE, tmp_path)
    assert again.proto == tokenizer.proto
    for one, other in zip(rows, corpus.rows(RECIPE, again, tmp_path)):
        np.testing.assert_array_equal(one, other)


def test_rows_are_read_from_the_cache_the_second_time(tokenizer, rows, cache, monkeypatch):
    monkeypatch.setattr(corpus, "_make_rows", None)
    np.testing.assert_array_equal(corpus.rows(RECIPE, tokenizer, cache).token_ids, rows.token_ids)


def test_there_are_tokens_enough_and_little_padding(rows):
    real = int((rows.segments > 0).sum())
    assert real >= RECIPE["tokens"]
    assert real / rows.segments.size > 0.95
    assert not rows.weights[rows.segments == 0].any()


def test_each_document_starts_with_bos(tokenizer, rows):
    starts = np.diff(np.pad(rows.segments.astype(int), ((0, 0), (1, 0)))) > 0
    assert (rows.token_ids[starts] == tokenizer.start_token_id).all()


def test_loss_on_the_model_counts_its_words_only(tokenizer, tmp_path):
    recipe = {**RECIPE, "loss": "model", "corpus": [{"source": "skills", "share": 1.0}]}
    rows = corpus.rows(recipe, tokenizer, tmp_path)
    assert 0.02 < rows.weights.mean() < 0.6
    counted = rows.token_ids[rows.weights == 1]
    assert tokenizer.end_of_turn_token_id in counted
    assert tokenizer.start_of_turn_token_id not in counted


def test_sources_never_end():
    texts = corpus.documents(RECIPE)
    assert len(list(itertools.islice(texts["stories"], 30))) == 30
