# ruff: noqa: F401, F811 (fixtures are imported by name)
"""`config.json` of Transformers: what we can be told is read, the rest is refused by its name."""

import math

import pytest
from cases import arguments
from huggingface_examples import (
    NAMES,
    configured,
    folder,
    reconfigure,
    transformers,
    written,
)

from keras_gemma.conversion.formats import open_checkpoint
from keras_gemma.conversion.huggingface.config import backbone_arguments
from keras_gemma.presets import BadPresetError

pytestmark = pytest.mark.once
GEMMA_2 = {"query_pre_attn_scalar": 8, "model_type": "gemma2"}
GEMMA_3 = {"query_pre_attn_scalar": 8, "model_type": "gemma3_text"}


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"model_type": "llama"}, "'llama'; this library reads gemma, gemma2, gemma3_text"),
        ({"model_type": ["gemma"]}, "this library reads gemma"),
        ({"model_type": "gemma3"}, "text_config"),
        ({"model_type": "gemma3", "text_config": [1]}, "text_config"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000 must be a whole number"),
        ({"num_hidden_layers": -1}, "num_hidden_layers=-1"),
        ({"hidden_size": "24"}, "hidden_size='24'"),
        ({"head_dim": None}, "head_dim=None"),
        ({"head_dim": 7}, "head_dim=7 must be even"),
        ({"num_key_value_heads": 3}, "num_key_value_heads=3 must divide"),
        ({"intermediate_size": True}, "intermediate_size=True"),
        ({"rms_norm_eps": math.nan}, "rms_norm_eps=nan"),
        ({"attention_bias": True}, "attention_bias=True"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings=False"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention=True"),
        ({"auto_map": {"AutoModel": "evil.py"}}, "auto_map="),
        ({"quantization_config": {"bits": 4}}, "quantization_config="),
        ({"hidden_act": "relu"}, "hidden_act='relu'"),
        ({"hidden_activation": "gelu"}, "hidden_activation='gelu'"),
        ({"torch_dtype": "int8"}, "dtype='int8'"),
        ({"torch_dtype": ["float32"]}, "dtype="),
        ({"rope_theta": 5000}, "rope_theta=5000 must be 10000"),
        ({"rope_theta": "10000"}, "rope_theta='10000'"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2}}, "rope_type='dynamic'"),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, "rope_type='linear'"),
        ({"rope_scaling": [2]}, "rope_scaling="),
        ({"rope_parameters": 3}, "rope_parameters=3"),
        ({"rope_parameters": {"rope_theta": 7.0}}, "rope_theta=7.0"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor=0.5"),
        ({**GEMMA_2, "query_pre_attn_scalar": 100}, "query_pre_attn_scalar=100 must be head_dim=8"),
        ({**GEMMA_2, "query_pre_attn_scalar": None}, "query_pre_attn_scalar=None"),
        ({**GEMMA_2, "sliding_window": None}, "sliding_window=None"),
        ({**GEMMA_2, "sliding_window": 0}, "sliding_window=0"),
        ({**GEMMA_2, "attn_logit_softcapping": -1.0}, "attn_logit_softcapping=-1.0"),
        ({**GEMMA_2, "final_logit_softcapping": "30"}, "final_logit_softcapping='30'"),
        ({**GEMMA_2, "layer_types": ["full_attention"]}, "layer_types="),
        ({**GEMMA_2, "layer_types": "full"}, "layer_types='full'"),
        ({**GEMMA_2, "sliding_window_pattern": 6}, "sliding_window_pattern=6 must make every 2"),
        ({**GEMMA_2, "sliding_window_pattern": 0}, "sliding_window_pattern=0"),
        ({**GEMMA_3, "rope_theta": 10_000.0}, "rope_theta=10000.0 must be 1000000"),
        (
            {**GEMMA_3, "rope_theta": 1e6, "rope_local_base_freq": 5.0},
            "rope_local_base_freq=5.0 must be 10000",
        ),
        ({**GEMMA_3, "rope_theta": 1e6, "attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        (
            {**GEMMA_3, "rope_theta": 1e6, "rope_scaling": {"rope_type": "linear", "factor": 0}},
            "factor of rope_scaling=0",
        ),
        (
            {**GEMMA_3, "rope_theta": 1e6, "rope_scaling": {"rope_type": "yarn", "factor": 8}},
            "rope_type='yarn' must be 'default' or 'linear'",
        ),
        ({**GEMMA_3, "rope_parameters": {"full_attention": 3}}, "rope_parameters.full_attention=3"),
    ],
)
def test_a_field_that_is_not_so_is_named(folder, changes, match):
    reconfigure(folder, **changes)
    with pytest.raises(BadPresetError, match=match) as caught:
        open_checkpoint(folder, load_weights=False)
    assert "config.json" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"[" * 10**5, b'{"model_type"', b"\xff\xfe"])
def test_a_config_that_is_no_object_is_named(folder, content):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(BadPresetError, match="config.json"):
        open_checkpoint(folder)


def test_a_published_config_that_leaves_out_defaults_is_read():
    """The text part of Gemma 3 4B's `config.json`, as published: four sizes and the scaling."""
    text = {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    }
    config = {"model_type": "gemma3", "text_config": text, "torch_dtype": "bfloat16"}
    backbone, got = backbone_arguments(config, "config.json")
    assert backbone == "Gemma3Backbone"
    assert (got["vocabulary_size"], got["num_query_heads"], got["head_dim"]) == (262_208, 8, 256)
    assert (got["global_rope_scaling_factor"], got["sliding_window_size"]) == (8.0, 1024)
    assert got["use_sliding_window_attention"] and got["dtype"] == "bfloat16"


@pytest.mark.parametrize("kind", ["gemma", "gemma2", "gemma3_text"])
def test_defaults_are_those_of_transformers(transformers, kind):
    config = transformers.AutoConfig.for_model(kind).to_dict()
    told = backbone_arguments(
        {k: v for k, v in config.items() if k not in ("dtype", "torch_dtype")}, "x"
    )
    assert told == backbone_arguments({"model_type": kind}, "x")


def test_sizes_of_all_cases_survive_the_configuration(written):
    for name in NAMES:
        _, got = backbone_arguments(configured(written(name)), "x")
        wanted = arguments(name)
        assert {k: got[k] for k in wanted if k in got and wanted[k] is not None} == {
            k: v for k, v in wanted.items() if k in got and v is not None
        }
