"""What XLA keeps of weights between a product and its gradient: the weights, and no copy of them."""

import keras
import numpy as np
import pytest
from conftest import close
from keras import ops

from keras_gemma.layers import Dense
from keras_gemma.models import cross_entropy as loss
from keras_gemma.quantization import form_of, quantize_layer

pytestmark = pytest.mark.skipif(keras.config.backend() != "jax", reason="asks XLA")
WIDTH, LAYERS = 256, 8


def layers(mode):
    made = [Dense("btd,df->btf", (None, WIDTH), dtype="bfloat16") for _ in range(LAYERS)]
    for layer in made:
        layer.build((None, None, WIDTH))
        if mode:
            quantize_layer(layer, form_of(mode))
    return made


def gradients(made, training):
    """A program of those of the sum, by the inputs and by all weights that are floats."""
    import jax

    def total(x, trained, others):
        for layer, own, rest in zip(made, trained, others):
            x, _ = layer.stateless_call(own, rest, x, training=training)
        return ops.sum(ops.cast(x, "float32"))

    values = [
        [[v.value for v in getattr(layer, kind)] for layer in made]
        for kind in ("trainable_variables", "non_trainable_variables")
    ]
    x = np.random.default_rng(0).normal(0, 1, (1, 4, WIDTH))
    x = ops.convert_to_tensor(x, "bfloat16")
    of = (0,) if made[0].quantization_mode else (0, 1)
    return jax.jit(jax.grad(total, of)).lower(x, *values).compile(), (x, *values)


@pytest.mark.parametrize("mode", [None, "int8", "int4"])
def test_a_program_that_trains_holds_the_floats_of_a_layer_or_two(mode):
    made = layers(mode)
    if mode is None:
        for layer in made:
            layer.trainable = False
    program, _ = gradients(made, training=True)
    assert program.memory_analysis().temp_size_in_bytes < 3 * 4 * WIDTH**2  # of eight


def test_the_gradients_are_those_of_the_plain_product():
    made = layers(None)
    program, arguments = gradients(made, training=True)
    plain, _ = gradients(made, training=False)
    (x, kernels), (expected_x, expected) = program(*arguments), plain(*arguments)
    close(x, expected_x, 1e-2)
    for [got], [wanted] in zip(kernels, expected):
        close(got, wanted, 1e-2)
        assert np.asarray(got, "float32").any()


def test_what_is_infinite_in_a_row_stays_there():
    import jax

    [layer, *_] = layers(None)
    x = np.ones((2, 1, WIDTH), "float32")
    x[0, 0, 0] = np.inf
    made = jax.jit(lambda x: layer(x, training=True))(ops.cast(x, "bfloat16"))
    assert not np.isfinite(np.asarray(made[0], "float32")).any()
    assert np.isfinite(np.asarray(made[1], "float32")).all()


@pytest.mark.parametrize("training", [True, False])
def test_a_loss_makes_floats_of_a_part_of_the_table(training, monkeypatch):
    import jax

    monkeypatch.setattr(loss, "numbers_at_once", lambda: 2**12)
    vocabulary, tokens = 4096, 8
    labels, weights = np.zeros((1, tokens), "int32"), np.ones((1, tokens), "float32")

    def total(hidden, table):
        head = loss.Head(table, None, False)
        return loss.cross_entropy(hidden, head, labels, weights, training)[0]

    hidden, table = (ops.ones(s, "bfloat16") for s in ((1, tokens, WIDTH), (vocabulary, WIDTH)))
    program = jax.jit(jax.grad(total) if training else total).lower(hidden, table).compile()
    assert program.memory_analysis().temp_size_in_bytes < 4 * vocabulary * WIDTH / 4
