"""Dtype policies in presets: a closed table."""

import keras
import pytest

from keras_gemma.presets import BadPresetError
from keras_gemma.presets.policies import FLOATS, float_policy

pytestmark = pytest.mark.once


def record(class_name, **config):
    return {"module": "keras", "class_name": class_name, "config": config}


INT8 = record("QuantizedDTypePolicy", mode="int8", source_name=None)


@pytest.mark.parametrize("name", FLOATS)
def test_kerass_own_records_of_plain_policies_are_read(name):
    policy = keras.DTypePolicy(name)
    assert float_policy(keras.dtype_policies.serialize(policy), "x") == name
    assert float_policy(name, "x") == name
    assert float_policy(record("FloatDTypePolicy", name=name), "x") == name


@pytest.mark.parametrize(
    "name", ["int8_from_bfloat16", "int4_from_bfloat16", "int4/32_from_bfloat16"]
)
def test_kerass_own_records_of_quantized_policies_are_read(name):
    policy = keras.dtype_policies.get(name)
    assert float_policy(keras.dtype_policies.serialize(policy), "x") in (None, "bfloat16")
    assert float_policy(name, "x") == "bfloat16"


@pytest.mark.parametrize(
    "default, found",
    [(None, None), (record("DTypePolicy", name="bfloat16"), "bfloat16"), ("float16", "float16")],
)
def test_a_policy_for_each_layer_is_read(default, found):
    given = record("DTypePolicyMap", default_policy=default, policy_map={"a/b": INT8, "c": INT8})
    assert float_policy(given, "x") == found


@pytest.mark.parametrize(
    "given, told",
    [
        ("int8", "dtype='int8'"),
        ("int2_from_float32", "dtype='int2_from_float32'"),
        (7, "dtype=7"),
        (record("QuantizedDTypePolicy", mode="int3"), "'QuantizedDTypePolicy' of mode 'int3'"),
        (record("QuantizedFloat8DTypePolicy", mode="float8"), "of mode 'float8'"),
        (record("GPTQDTypePolicy", mode="gptq/4/128"), "of mode 'gptq/4/128'"),
        (record("Evil", name="float32"), "'Evil' of mode None"),
        ({"class_name": ["x"]}, "of mode None"),
        (record("DTypePolicyMap", policy_map=[]), "policy_map of dtype must be an object"),
        (record("DTypePolicyMap", policy_map={"a": record("DTypePolicyMap")}), "another one"),
        (
            record("DTypePolicyMap", policy_map={}, default_policy=record("DTypePolicyMap")),
            "of one kind",
        ),
        (record("DTypePolicyMap", policy_map={"a": "int2"}), "dtype='int2'"),
    ],
)
def test_anything_else_is_refused_by_name(given, told):
    with pytest.raises(BadPresetError, match=f"config.json: .*{told}"):
        float_policy(given, "config.json")
