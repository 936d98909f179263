"""NumPy arrays into a backend's memory and back."""

import keras
import numpy as np
import pytest

from keras_gemma.arrays import blank, empty, fetch, place, usable


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_what_is_placed_is_fetched(dtype, stored):
    numbers = np.linspace(-3, 3, 24).reshape(2, 3, 4).astype(np.dtype(stored))
    variable = keras.Variable(blank((3, 4, 2), dtype), dtype=dtype)
    place(variable, numbers.transpose(1, 2, 0))  # no contiguous array
    expected = numbers.transpose(1, 2, 0).astype(np.dtype(dtype))
    assert fetch(variable).dtype == np.dtype(dtype)
    assert np.array_equal(fetch(variable), expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "uint8"])
@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((6, 4), (1, 0)),
        ((300, 514), (1, 0)),  # several blocks, the last ones smaller
        ((129, 131), (1, 0)),  # no pairs
        ((3, 256, 130), (2, 0, 1)),
        ((2, 3, 64, 7), (3, 1, 0, 2)),
    ],
)
def test_an_array_whose_axes_were_exchanged_is_copied(shape, axes, dtype):
    numbers = np.arange(np.prod(shape)) % 251
    turned = numbers.reshape(shape).astype(np.dtype(dtype)).transpose(axes)
    copy = usable(turned, dtype)
    assert copy.flags.c_contiguous and np.array_equal(copy, turned)


def test_the_variable_outlives_the_array_and_does_not_see_it_change():
    array = empty((1000, 1000), "float32")
    array[...] = 7
    variable = keras.Variable(blank((1000, 1000), "float32"))
    place(variable, array)
    del array
    for _ in range(5):  # memory that was given back would be handed out again
        empty((1000, 1000), "float32")[...] = 1
    assert (fetch(variable) == 7).all()


def test_a_variable_that_was_placed_can_be_trained():
    variable = keras.Variable(blank((4,), "float32"))
    place(variable, np.ones(4, "float32"))
    variable.assign_add(np.ones(4, "float32"))
    assert fetch(variable).tolist() == [2, 2, 2, 2]
