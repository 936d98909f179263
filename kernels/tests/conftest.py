import keras_gemma_kernels as kg
import numpy as np
import pytest
from keras_gemma_kernels import _native

PRECISIONS = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"dtype": "int8"},
    "int8_channel": {"dtype": "int8", "block": None},
    "int4": {"dtype": "int4"},
}


@pytest.fixture(params=_native.isas())
def isa(request):
    """Each instruction set that this processor can run."""
    before = kg.available().isa
    _native.use(request.param)
    yield request.param
    _native.use(before)


@pytest.fixture(params=PRECISIONS)
def precision(request):
    return PRECISIONS[request.param]


@pytest.fixture
def random():
    return np.random.default_rng(0)


def unpack(packed):
    """The numbers that a packed matrix stands for."""
    return kg.rows(packed, np.arange(packed.shape[0], dtype="int32"))


def assert_close(got, awaited, tolerance):
    """Within `tolerance` of the largest number awaited."""
    got, awaited = np.asarray(got, float), np.asarray(awaited, float)
    assert got.shape == awaited.shape
    assert np.abs(got - awaited).max() <= tolerance * np.abs(awaited).max()
