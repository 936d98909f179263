"""What a mode or a configuration of Keras comes to, and what is refused."""

import keras
import pytest
from keras.quantizers import Int4QuantizationConfig, Int8QuantizationConfig

from keras_gemma.quantization import Form, form_of

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    "given, form",
    [
        ({"mode": "int8"}, Form("int8")),
        ({"mode": "int4"}, Form("int4", 32)),
        ({"config": "int4"}, Form("int4", 32)),
        ({"config": Int8QuantizationConfig(activation_quantizer=None)}, Form("int8")),
        ({"config": Int4QuantizationConfig(block_size=64)}, Form("int4", 64)),
        ({"config": Int4QuantizationConfig(block_size=-1)}, Form("int4")),
        ({"mode": "int4", "config": Int4QuantizationConfig(block_size=16)}, Form("int4", 16)),
    ],
)
def test_what_keras_spells(given, form):
    assert form_of(**given) == form


@pytest.mark.parametrize(
    "given, error, message",
    [
        ({"mode": "int3"}, ValueError, "'int8' or 'int4', not 'int3'"),
        ({"mode": None}, ValueError, "not None"),
        ({"mode": "float8"}, ValueError, "float8"),
        ({"config": 4}, TypeError, "QuantizationConfig, not 4"),
        ({"mode": "int8", "config": Int4QuantizationConfig()}, ValueError, "contradict"),
        ({"config": Int8QuantizationConfig()}, ValueError, "activation_quantizer=None"),
    ],
)
def test_what_is_refused(given, error, message):
    if "config" in given and isinstance(given["config"], Int8QuantizationConfig):
        given["config"].activation_quantizer = keras.quantizers.AbsMaxQuantizer()
    with pytest.raises(error, match=message):
        form_of(**given)
