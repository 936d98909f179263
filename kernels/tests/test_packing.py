import keras_gemma_kernels as kg
import ml_dtypes
import numpy as np
import pytest
from conftest import unpack

SHAPES = [(1, 1), (32, 32), (33, 31), (70, 131)]


@pytest.mark.parametrize("shape", SHAPES)
def test_float32_comes_back_as_it_was(shape, random):
    weights = random.standard_normal(shape, "float32")
    np.testing.assert_array_equal(unpack(kg.pack(weights)), weights)


@pytest.mark.parametrize("shape", SHAPES)
def test_bfloat16_comes_back_rounded_to_even(shape, random):
    weights = random.standard_normal(shape, "float32")
    rounded = weights.astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(unpack(kg.pack(weights, "bfloat16")), rounded.astype("float32"))
    np.testing.assert_array_equal(unpack(kg.pack(rounded, "bfloat16")), rounded.astype("float32"))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype, low, high", [("int8", -127, 127), ("int4", -8, 7)])
@pytest.mark.parametrize("blocks", [True, False])
def test_quantized_weights_are_taken_as_they_are(shape, dtype, low, high, blocks, random):
    values = random.integers(low, high + 1, shape).astype("int8")
    outputs, inputs = shape
    count = -(-inputs // 32) if blocks else 1
    scales = random.uniform(0.001, 1, (outputs, count)).astype("float16").astype("float32")
    packed = kg.pack(values, dtype, scales=scales if blocks else scales[:, 0])
    each = np.repeat(scales, 32 if blocks else inputs, axis=1)[:, :inputs]
    np.testing.assert_array_equal(unpack(packed), values * each)


def test_int8_of_channels_keeps_float32_scales(random):
    values = random.integers(-127, 128, (40, 64)).astype("int8")
    scales = random.uniform(1e-9, 1e-6, 40).astype("float32")
    packed = kg.pack(values, "int8", scales=scales)
    assert packed.dtype == "int8_channel"
    np.testing.assert_array_equal(unpack(packed), values * scales[:, None])


@pytest.mark.parametrize("dtype, steps", [("int8", 127), ("int4", 8)])
def test_rounding_is_within_half_a_step_of_its_block(dtype, steps, random):
    weights = random.standard_normal((64, 96), "float32") * 1e-3  # scales near float16's subnormals
    packed = kg.pack(weights, dtype)
    largest = np.abs(weights.reshape(64, 3, 32)).max(-1, keepdims=True)
    error = np.abs(unpack(packed) - weights).reshape(64, 3, 32)
    # int4 has no +8: what lies beyond 7.5 steps on the far side of the largest may be a whole one off.
    bound = largest / steps * (0.51 if dtype == "int8" else 1.01)
    assert (error <= bound).all()


def test_packing_what_was_unpacked_changes_nothing(precision, random):
    packed = kg.pack(random.standard_normal((50, 70), "float32"), **precision)
    again = kg.pack(unpack(packed), **precision)
    if precision["dtype"] in ("float32", "bfloat16"):
        np.testing.assert_array_equal(again.data, packed.data)
    else:
        np.testing.assert_allclose(unpack(again), unpack(packed), rtol=2e-3, atol=1e-6)


def test_memory_is_aligned_and_as_large_as_said(precision, random):
    packed = kg.pack(random.standard_normal((64, 64), "float32"), **precision)
    assert packed.data.ctypes.data % 64 == 0
    assert packed.nbytes == packed.data.nbytes


def test_a_transposed_view_is_packed_as_it_reads(random):
    weights = random.standard_normal((48, 40), "float32")
    np.testing.assert_array_equal(unpack(kg.pack(weights.T)), weights.T)


@pytest.mark.parametrize(
    "weights, options, message",
    [
        (np.ones(3, "float32"), {}, r"\[outputs, inputs\], not \[3\]"),
        (np.ones((0, 3), "float32"), {}, r"\[outputs, inputs\], not \[0, 3\]"),
        (
            np.ones((2, 3), "float32"),
            {"dtype": "int5"},
            "float32, bfloat16, int8 or int4, not 'int5'",
        ),
        (np.ones((2, 3), "int32"), {}, "floats, or int8 with scales, not int32"),
        (np.ones((2, 3), "int8"), {"dtype": "int8"}, "pass their scales"),
        (np.ones((2, 3), "float32"), {"dtype": "int4", "block": None}, "block=None"),
        (np.ones((2, 3), "float32"), {"dtype": "int8", "block": 64}, "block=64"),
        (np.full((2, 3), np.nan, "float32"), {"dtype": "int8"}, "finite"),
        (np.full((2, 3), np.inf, ml_dtypes.bfloat16), {"dtype": "int4"}, "finite"),
        (
            np.ones((2, 3), "int8"),
            {"dtype": "int8", "scales": np.ones(3, "float32")},
            r"shape \[2\]",
        ),
        (
            np.ones((2, 3), "float32"),
            {"dtype": "int8", "scales": np.ones(2, "float32")},
            "int8 values",
        ),
        (
            np.full((2, 3), 8, "int8"),
            {"dtype": "int4", "scales": np.ones(2, "float32")},
            r"-8\.\.7",
        ),
        (np.full((2, 3), -128, "int8"), {"dtype": "int8", "scales": np.ones(2, "float32")}, "-127"),
        (np.ones((2, 3), "int8"), {"dtype": "int4", "scales": np.full(2, 1e6)}, "65504"),
    ],
)
def test_what_can_not_be_packed_is_told(weights, options, message):
    with pytest.raises(ValueError, match=message):
        kg.pack(weights, **options)


def test_small_matrices_lie_side_by_side(random):
    """So that they too are in huge pages."""
    weights = random.standard_normal((64, 64), "float32")
    first, second = kg.pack(weights), kg.pack(weights + 1)
    assert second.data.ctypes.data - first.data.ctypes.data == first.nbytes
    np.testing.assert_array_equal(unpack(first), weights)
    np.testing.assert_array_equal(unpack(second), weights + 1)
