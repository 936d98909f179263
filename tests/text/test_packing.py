from itertools import pairwise

import numpy as np
import pytest

from keras_gemma.text import pack
from keras_gemma.text.packing import one_per_row
from keras_gemma.text.training_rows import split_long

pytestmark = pytest.mark.once


def documents_in(packed, values="token_ids"):
    """Every document of the rows, in the order of rows and segments."""
    rows = zip(getattr(packed, values), packed.segments)
    return [row[s == n].tolist() for row, s in rows for n in range(1, s.max() + 1)]


def drawn(count, longest, seed=0):
    random = np.random.default_rng(seed)
    return [random.integers(1, 99, random.integers(0, longest)).tolist() for _ in range(count)]


def test_every_document_is_in_the_rows_whole_and_once():
    documents = drawn(500, 40)
    packed = pack(documents, row_length=40)
    assert sorted(documents_in(packed)) == sorted(d for d in documents if d)
    assert (packed.token_ids[packed.segments == 0] == 0).all()
    assert packed.weights.tolist() == (packed.segments > 0).astype("float32").tolist()
    assert packed.token_ids.dtype == packed.segments.dtype == np.int32


def test_segments_count_up_from_one_without_gaps():
    packed = pack(drawn(300, 20), row_length=24)
    for row in packed.segments:
        filled = row[row > 0]
        assert filled[0] == 1 and set(np.diff(filled)) <= {0, 1}
        assert (row[len(filled) :] == 0).all()


def test_long_documents_are_cut_and_nothing_is_lost():
    packed = pack([list(range(1, 12)), [50]], row_length=4)
    assert documents_in(packed) == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11], [50]]


def test_little_is_padding():
    documents = drawn(2000, 200)
    packed = pack(documents, row_length=256)
    assert (packed.segments > 0).mean() > 0.97


def test_weights_go_with_their_tokens():
    documents = drawn(100, 30, seed=4)
    weights = [[float(token) for token in document] for document in documents]
    packed = pack(documents, row_length=16, weights=weights)
    assert packed.weights.tolist() == packed.token_ids.tolist()
    with pytest.raises(ValueError, match="one number for each token"):
        pack([[1, 2]], row_length=4, weights=[[1]])


def test_padding_is_what_was_asked_for():
    assert pack([[5]], row_length=3, pad_id=9).token_ids.tolist() == [[5, 9, 9]]
    assert one_per_row([[5]], 3, pad_id=9).token_ids.tolist() == [[5, 9, 9]]


def test_no_documents_make_no_rows():
    for empty in ([], [[]], [[], []]):
        assert pack(empty, row_length=3).token_ids.shape == (0, 3)
    assert one_per_row([], 3).token_ids.shape == (0, 3)
    assert one_per_row([[]], 3).segments.tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("row_length", [0, -1])
def test_a_row_must_hold_something(row_length):
    with pytest.raises(ValueError, match="at least 1"):
        pack([[1]], row_length)


def test_rows_depend_on_nothing_but_the_documents():
    documents = drawn(300, 60)
    arrays = [np.array(document, np.int32) for document in documents]
    for again in (documents, arrays):
        for a, b in zip(pack(documents, 64), pack(again, 64)):
            assert np.array_equal(a, b)


@pytest.mark.parametrize("length", [3, 4, 7, 40])
def test_long_documents_are_split_with_every_token_a_label_once(length):
    documents, first = [[2, *range(5, 5 + n)] for n in (1, 9, 30, 100)], [2]
    weights = [[0, *([1.5] * (len(document) - 1))] for document in documents]
    parts, part_weights = split_long(documents, weights, length, first)
    assert max(map(len, parts)) <= length and all(part[0] == 2 for part in parts)
    labels = [
        (part[at - 1], part[at])
        for part, row in zip(parts, part_weights)
        for at in range(1, len(part))
        if row[at]
    ]
    # The token before each label is the one that stood before it, the first of a document aside.
    assert labels == [pair for document in documents for pair in pairwise(document)]
