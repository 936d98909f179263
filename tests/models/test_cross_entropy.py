"""A loss in chunks is the plain loss, in value and gradient, and holds no logits."""

import math

import numpy as np
import pytest
from conftest import SIZES, close, loud, once_but
from gradients import gradients_of
from keras import ops

from keras_gemma import GemmaBackbone, GemmaCausalLM
from keras_gemma.models import cross_entropy as module
from keras_gemma.models.cross_entropy import Head, cross_entropy

WIDTH = 8


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(module, "_FEWEST", 5)
    if module.numbers_at_once() != math.inf:
        monkeypatch.setattr(module, "numbers_at_once", lambda: 100)


def example(rows, length, vocabulary=96):
    random = np.random.default_rng(0)
    hidden = random.normal(size=(rows, length, WIDTH)).astype("float32")
    table = random.normal(size=(vocabulary, WIDTH)).astype("float32")
    labels = random.integers(0, vocabulary, (rows, length)).astype("int32")
    weights = random.choice([0.0, 0.5, 1.0], (rows, length)).astype("float32")
    weights[0, 0] = 1
    labels[0, 0] = (hidden[0, 0] @ table.T).argmax()
    return hidden, table, ops.convert_to_tensor(labels), ops.convert_to_tensor(weights)


def plain(hidden, table, labels, weights, cap):
    logits = ops.matmul(hidden, ops.transpose(table))
    if cap is not None:
        logits = ops.tanh(logits / cap) * cap
    chances = ops.log_softmax(logits, axis=-1)
    return -ops.sum(weights * ops.take_along_axis(chances, labels[..., None], axis=-1)[..., 0])


CASES = [(2, 12, 96, None), (3, 7, 96, 3.0), (1, 1, 97, None), (9, 2, 64, 3.0), (2, 5, 97, 3.0)]


@pytest.mark.parametrize("rows, length, vocabulary, cap", CASES)
def test_values_and_gradients_are_those_of_the_plain_loss(rows, length, vocabulary, cap):
    *arrays, labels, weights = example(rows, length, vocabulary)

    def ours(hidden, table):
        return cross_entropy(hidden, Head(table, cap, True), labels, weights, True)[0] / 7

    def theirs(hidden, table):
        return plain(hidden, table, labels, weights, cap) / 7

    value, gradients = gradients_of(ours, *arrays)
    expected, expected_gradients = gradients_of(theirs, *arrays)
    close(value, expected, 1e-5)
    for gradient, other in zip(gradients, expected_gradients):
        close(gradient, other, 1e-5)


def test_a_frozen_table_gets_no_gradient_and_changes_none():
    hidden, table, labels, weights = example(2, 12)

    def ours(hidden):
        head = Head(ops.convert_to_tensor(table), None, False)
        return cross_entropy(hidden, head, labels, weights, True)[0]

    _, (gradient,) = gradients_of(ours, hidden)
    _, (expected,) = gradients_of(lambda x: plain(x, table, labels, weights, None), hidden)
    close(gradient, expected, 1e-5)


def test_sums_of_an_evaluation_are_those_of_training():
    hidden, table, labels, weights = example(2, 12)
    hidden, table = ops.convert_to_tensor(hidden), ops.convert_to_tensor(table)
    head = Head(table, 3.0, True)
    trained, evaluated = (
        cross_entropy(hidden, head, labels, weights, training) for training in (True, False)
    )
    for one, other in zip(trained, evaluated):
        close(one, other, 1e-6)
    likeliest = ops.argmax(ops.matmul(hidden, ops.transpose(table)), axis=-1)
    close(evaluated[1], ops.sum(weights * ops.cast(likeliest == labels, "float32")), 1e-6)


@pytest.mark.parametrize("mode", once_but(["int8", "int4"], "int4"))
def test_a_table_of_whole_numbers_is_evaluated_as_it_predicts(mode):
    model = GemmaCausalLM(loud(GemmaBackbone(**SIZES), scale=0.2))
    model.quantize(mode)
    random = np.random.default_rng(1)
    ids = random.integers(1, 96, (2, 13)).astype("int32")
    inputs = {"token_ids": ids[:, :-1], "padding_mask": np.ones((2, 12), "int32")}
    loss = model.evaluate(inputs, ids[:, 1:], verbose=0, return_dict=True)["loss"]
    logits = np.asarray(ops.convert_to_numpy(model(inputs)), "float64")
    chances = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    close(loss, -np.take_along_axis(chances, ids[:, 1:, None], -1).mean(), 1e-4)
