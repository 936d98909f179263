"""The loss counts the tokens that count, and nothing else."""

import keras
import numpy as np
import pytest
from conftest import SIZES, WINDOWED, close, loud, once_but
from keras import ops

from keras_gemma import GemmaBackbone, GemmaCausalLM
from keras_gemma.models.token_loss import token_means
from keras_gemma.optimizers import AdamW


def example(rows=3, length=6):
    random = np.random.default_rng(0)
    logits = random.normal(size=(rows, length, 11)).astype("float32")
    labels = random.integers(0, 11, (rows, length)).astype("int32")
    weights = random.integers(0, 2, (rows, length)).astype("float32")
    return logits, labels, weights


def by_hand(logits, labels, weights):
    chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    nats = -np.log(np.take_along_axis(chances, labels[..., None], -1)[..., 0])
    return (nats * weights).sum(), ((logits.argmax(-1) == labels) * weights).sum(), weights.sum()


def test_means_by_hand():
    logits, labels, weights = example()
    loss, correct, count = by_hand(logits, labels, weights)
    for dtype, bar in (("float32", 1e-6), ("float16", 1e-3)):
        means = token_means(lambda x: x, ops.cast(logits, dtype), labels, weights)
        close(np.array([*map(float, means)]), np.array([loss / count, correct / count, count]), bar)


def test_weights_may_be_left_out_or_given_per_row():
    logits, labels, _ = example()
    rows = np.array([1.0, 0.0, 2.0], "float32")
    for weights, full in ((None, np.ones((3, 6))), (rows, np.repeat(rows[:, None], 6, 1))):
        loss, _, count = by_hand(logits, labels, full)
        close(float(token_means(lambda x: x, logits, labels, weights).loss), loss / count, 1e-6)


def test_nothing_that_counts_is_a_loss_of_zero():
    logits, labels, _ = example()
    assert float(token_means(lambda x: x, logits, labels, np.zeros((3, 6))).loss) == 0


def batch(rows=4, length=12):
    random = np.random.default_rng(1)
    ids = random.integers(1, 96, (rows, length + 1)).astype("int32")
    mask = np.ones((rows, length), "int32")
    mask[0, 5:] = 0
    inputs = {"token_ids": ids[:, :-1], "padding_mask": mask}
    return inputs, ids[:, 1:], mask.astype("float32")


def model():
    # A seed by which some tokens are guessed: an accuracy of 0 would prove little.
    return GemmaCausalLM(loud(GemmaBackbone(**SIZES, **WINDOWED), seed=4, scale=0.2))


def test_training_on_hidden_states_equals_training_on_logits():
    """The automatic loss against Keras's own, over the same masked tokens."""
    x, y, weights = batch()
    ours, theirs = model(), model()
    ours.compile(optimizer=keras.optimizers.SGD(0.1))
    theirs.compile(
        optimizer=keras.optimizers.SGD(0.1),
        loss=keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, reduction="mean_with_sample_weight"
        ),
    )
    for _ in range(2):
        a = ours.train_on_batch(x, y, weights, return_dict=True)
        b = theirs.train_on_batch(x, y, weights, return_dict=True)
    close(a["loss"], b["loss"], 1e-5)
    for mine, other in zip(ours.variables, theirs.variables):
        close(mine, other, 2e-5)


def test_padding_and_how_a_batch_is_cut_do_not_change_the_loss():
    x, y, weights = batch()
    m = model()
    whole = m.evaluate(x, y, sample_weight=weights, verbose=0, return_dict=True)
    padded = [{k: np.pad(v, [(0, 0), (0, 5)]) for k, v in x.items()}]
    padded += [np.pad(part, [(0, 0), (0, 5)]) for part in (y, weights)]
    wider = m.evaluate(padded[0], padded[1], sample_weight=padded[2], verbose=0, return_dict=True)
    cut = m.evaluate(x, y, sample_weight=weights, batch_size=1, verbose=0, return_dict=True)
    close(wider["loss"], whole["loss"], 1e-5)
    for name in ("accuracy", "perplexity"):
        close(wider[name], whole[name], 1e-5)
        close(cut[name], whole[name], 1e-5)


def test_perplexity_and_accuracy_are_those_of_the_logits():
    x, y, weights = batch()
    m = model()
    found = m.evaluate(x, y, sample_weight=weights, verbose=0, return_dict=True)
    loss, correct, count = by_hand(ops.convert_to_numpy(m(x)), y, weights)
    close(found["perplexity"], np.exp(loss / count), 1e-4)
    close(found["accuracy"], correct / count, 1e-6)


def test_logits_are_made_for_a_metric_of_the_users_own():
    x, y, weights = batch()
    m = model()
    m.compile(weighted_metrics=[keras.metrics.SparseTopKCategoricalAccuracy(96, name="all")])
    assert m.evaluate(x, y, sample_weight=weights, verbose=0, return_dict=True)["all"] == 1


CUTS = [(AdamW, 1), (AdamW, 2), (AdamW, 4), (keras.optimizers.AdamW, 2)]


@pytest.mark.parametrize("optimizer, cut", once_but(CUTS, CUTS[1], CUTS[3]))
def test_how_a_batch_is_cut_for_accumulation_does_not_change_the_step(optimizer, cut):
    """Four times two rows are eight; they have unlike numbers of tokens that count, one has none."""
    x, y, weights = batch(rows=8)
    weights[1, 1:] = weights[2] = 0
    whole, parts = model(), model()
    # A gradient that vanishes is noise, which Adam divides by itself: epsilon is above it here.
    options = {"learning_rate": 0.01, "epsilon": 1e-5, "global_clipnorm": 1.0}
    whole.compile(optimizer=optimizer(**options))
    whole.train_on_batch(x, y, weights)
    parts.compile(optimizer=optimizer(**options, gradient_accumulation_steps=8 // cut))
    for first in range(0, 8, cut):
        rows = slice(first, first + cut)
        parts.train_on_batch({name: part[rows] for name, part in x.items()}, y[rows], weights[rows])
    for mine, other in zip(parts.variables, whole.variables):
        close(mine, other, 1e-5)


@pytest.mark.once
def test_a_sum_begun_in_an_optimizer_of_keras_goes_on_after_save_and_load(tmp_path):
    x, y, weights = batch()
    first = model()
    first.compile(optimizer=keras.optimizers.Adam(0.01, gradient_accumulation_steps=2))
    first.train_on_batch(x, y, weights)
    first.save(tmp_path / "model.keras")
    second = keras.saving.load_model(tmp_path / "model.keras")
    for each in (first, second):
        each.train_on_batch(x, y, weights / 2)
    before = model()
    for mine, other, old in zip(first.variables, second.variables, before.variables, strict=True):
        close(mine, other, 1e-7)
        assert not np.array_equal(*(ops.convert_to_numpy(v) for v in (mine, old)))
