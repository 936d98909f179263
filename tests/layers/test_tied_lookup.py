"""A lookup tied to a product with the same table has the gradients of two readers of it."""

import numpy as np
import pytest
from conftest import SIZES, close
from gradients import gradients_of
from keras import ops

from keras_gemma.config import GemmaConfig
from keras_gemma.layers.reversible_embedding import ReversibleEmbedding
from keras_gemma.layers.tied_lookup import tied_lookup

IDS = np.array([[3, 3, 0], [7, 3, 1]], "int32")


def loss(vectors, table):
    logits = ops.matmul(ops.tanh(vectors), ops.transpose(table))
    return ops.sum(ops.square(logits)) / 9


@pytest.mark.parametrize("length", [1, 3])
def test_values_and_gradients_are_those_of_two_readers(length):
    table = np.random.default_rng(0).normal(size=(8, 5)).astype("float32")
    ids = ops.convert_to_tensor(IDS[:, :length])
    value, gradients = gradients_of(lambda table: loss(*tied_lookup(ids, table)), table)
    expected, expected_gradients = gradients_of(
        lambda table: loss(ops.take(table, ids, axis=0), table), table
    )
    close(value, expected, 1e-6)
    close(gradients[0], expected_gradients[0], 1e-6)


def test_a_table_that_nobody_reads_gets_the_lookups_gradient_alone():
    table = np.random.default_rng(0).normal(size=(8, 5)).astype("float32")
    ids = ops.convert_to_tensor(IDS)
    _, (gradient,) = gradients_of(lambda table: ops.sum(tied_lookup(ids, table)[0]), table)
    close(gradient, np.bincount(IDS.ravel(), minlength=8)[:, None] * np.ones((1, 5)), 1e-6)


@pytest.mark.parametrize(
    "dtype, options, tied",
    [("float32", {}, True), ("float32", {"wanted": False}, False), ("mixed_bfloat16", {}, False)],
)
def test_a_layer_is_tied_while_it_is_asked_to_be(dtype, options, tied):
    layer = ReversibleEmbedding(GemmaConfig(**SIZES), dtype=dtype)
    expected = layer(IDS)
    with layer.tied(**options):
        close(layer(IDS), expected, 0)
        assert (layer._tied_table is not None) == tied
        close(layer.table(), layer.embeddings, 0 if tied else 1e-2)
    assert layer._tied_table is None
