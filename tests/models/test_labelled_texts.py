"""Texts in batches of like length: none lost, none mixed up."""

import numpy as np
import pytest

from keras_gemma import GemmaTextClassifierPreprocessor
from keras_gemma.models.labelled_texts import LabelledTexts

TEXTS = ["a " * (1 + n % 40) for n in range(101)]


def batches_of(data):
    return [data[index] for index in range(data.num_batches)]


@pytest.fixture
def preprocessor(tokenizer):
    return GemmaTextClassifierPreprocessor(tokenizer, 64)


@pytest.mark.parametrize("order", ["given", "by length", "shuffled"])
def test_every_text_comes_once_with_its_label(order, preprocessor):
    data = LabelledTexts(preprocessor, TEXTS, range(101), batch_size=8, order=order)
    for _ in range(2):
        ids = [row for x, _ in batches_of(data) for row in x["token_ids"]]
        labels = np.concatenate([y for _, y in batches_of(data)])
        assert sorted(labels) == list(range(101))
        for row, label in zip(ids, labels):
            assert np.trim_zeros(row).tolist() == preprocessor.rows(TEXTS[label : label + 1])[0]
        assert (data.places == labels).all()
        data.epoch += 1


def test_rows_are_as_wide_as_their_batch_needs(preprocessor):
    data = LabelledTexts(preprocessor, TEXTS, batch_size=8, order="shuffled")
    widths = [x["token_ids"].shape[1] for x in batches_of(data)]
    needed = [x["padding_mask"].sum(axis=1).max() for x in batches_of(data)]
    assert set(widths) <= {16, 32, 64} and all(n <= w for n, w in zip(needed, widths))
    # What Keras on TensorFlow learns from the first two: that widths change.
    assert widths[0] == max(widths) and widths[1] == min(widths) < max(widths)


def test_epochs_differ_and_a_seed_repeats_them(preprocessor):
    def orders():
        np.random.seed(5)
        data = LabelledTexts(preprocessor, TEXTS, batch_size=8, order="shuffled")
        first = data.places
        data.epoch = 1
        return first.tolist(), data.places.tolist()

    first, second = orders()
    assert first != second and orders() == (first, second)


def test_an_order_follows_from_seed_and_epoch_alone(preprocessor):
    options = {"batch_size": 8, "order": "shuffled"}
    data, other = (LabelledTexts(preprocessor, TEXTS, seed=seed, **options) for seed in (3, 4))
    for data.epoch in range(3):
        wanted = data.places.tolist()
    assert other.places.tolist() != wanted
    other.seed, other.epoch = 3, 2
    assert other.places.tolist() == wanted


def test_what_it_holds_is_known_again(preprocessor):
    def hashed(texts=TEXTS, labels=range(101)):
        return LabelledTexts(preprocessor, texts, labels).fingerprint()

    assert hashed() == hashed()
    assert len({hashed(), hashed(["b", *TEXTS[1:]]), hashed(labels=range(1, 102))}) == 3


def test_a_group_is_never_parted(preprocessor):
    data = LabelledTexts(
        preprocessor, TEXTS[:100], np.arange(100) // 2, batch_size=8, order="shuffled", group=2
    )
    for _, labels in batches_of(data):
        assert (labels[::2] == labels[1::2]).all()


def test_no_text_is_an_error(preprocessor):
    with pytest.raises(ValueError, match="There is no text"):
        LabelledTexts(preprocessor, [])
