import keras_gemma_kernels as kg
import ml_dtypes
import numpy as np
import pytest
from conftest import assert_close, unpack
from reference import quantized

SHAPES = [(1, 1), (31, 33), (64, 64), (37, 45), (131, 100), (640, 96)]


@pytest.mark.parametrize("inputs, outputs", SHAPES)
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 8, 9])
def test_products_agree_with_numpy(isa, precision, rows, inputs, outputs, random):
    packed = kg.pack(random.standard_normal((outputs, inputs), "float32"), **precision)
    x = random.standard_normal((rows, inputs), "float32")
    exact = quantized(x) if packed.dtype.startswith("int") else x
    awaited = exact.astype(float) @ unpack(packed).T.astype(float)
    # A value just between two steps may be rounded the other way: a step is 1/127 of a block's largest.
    assert_close(kg.linear(x, packed), awaited, 2e-6 if exact is x else 2e-3)


@pytest.mark.parametrize("rows", [17, 64, 65, 150])
def test_many_rows_go_by_tiles(isa, precision, rows, random):
    packed = kg.pack(random.standard_normal((70, 200), "float32"), **precision)
    x = random.standard_normal((rows, 200), "float32")
    whole = kg.linear(x, packed)
    assert_close(whole, np.stack([kg.linear(row, packed) for row in x]), 1e-6)


def test_a_row_is_the_same_bit_for_bit_in_any_company(isa, precision, random):
    packed = kg.pack(random.standard_normal((96, 333), "float32"), **precision)
    x = random.standard_normal((70, 333), "float32")
    alone = kg.linear(x[:1], packed)
    for rows in range(1, 71):
        np.testing.assert_array_equal(kg.linear(x[:rows], packed)[:1], alone)


def test_large_shapes_are_shared_among_threads(precision, random):
    packed = kg.pack(random.standard_normal((5000, 640), "float32"), **precision)
    x = random.standard_normal((3, 640), "float32")
    exact = quantized(x) if packed.dtype.startswith("int") else x
    assert_close(kg.linear(x, packed), exact @ unpack(packed).T.astype(float), 2e-3)


def test_leading_axes_are_kept(random):
    packed = kg.pack(random.standard_normal((40, 24), "float32"))
    x = random.standard_normal((2, 3, 24), "float32")
    assert_close(kg.linear(x, packed), x @ unpack(packed).T, 1e-6)
    assert kg.linear(x[0, 0], packed).shape == (40,)
    assert kg.linear(x[:0], packed).shape == (0, 3, 40)


def test_zeros_give_zeros_and_a_nan_shows(isa, precision, random):
    packed = kg.pack(random.standard_normal((40, 64), "float32"), **precision)
    x = np.zeros((2, 64), "float32")
    assert not kg.linear(x, packed).any()
    x[1, 33] = np.nan
    y = kg.linear(x, packed)
    assert not y[0].any() and np.isnan(y[1]).all()


@pytest.mark.parametrize("rows", [4, 30, 90])
def test_rows_of_zeros_change_no_other(isa, precision, rows, random):
    packed = kg.pack(random.standard_normal((70, 333), "float32"), **precision)
    x = random.standard_normal((rows, 333), "float32")
    for zeros in ([0], [rows - 1], range(0, rows, 2), range(1, rows, 3), range(rows // 2)):
        y = kg.linear(x, packed)
        y[list(zeros)] = 0
        padded = x.copy()
        padded[list(zeros)] = 0
        np.testing.assert_array_equal(kg.linear(padded, packed), y)


def test_rows_of_zeros_times_a_table(isa, random):
    for dtype in ("float32", ml_dtypes.bfloat16):
        table = kg.as_stored(random.standard_normal((50, 64), "float32").astype(dtype))
        x = random.standard_normal((9, 64), "float32")
        y = kg.linear(x, table)
        x[[0, 3, 4, 8]] = y[[0, 3, 4, 8]] = 0
        np.testing.assert_array_equal(kg.linear(x, table), y)
