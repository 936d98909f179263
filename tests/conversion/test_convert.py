"""Every format that is written: there and back, for a model of each family, without loss."""

import numpy as np
import pytest
from conftest import close, loud, once_but

from keras_gemma import Gemma3Backbone, GemmaBackbone
from keras_gemma.arrays import fetch
from keras_gemma.conversion.convert import WRITTEN, convert, target_format
from keras_gemma.conversion.formats import open_checkpoint
from keras_gemma.models.export_checkpoint import export_checkpoint

SIZES = {"vocabulary_size": 96, "num_layers": 3, "hidden_dim": 24, "intermediate_dim": 64}
MODELS = {
    "2B": (GemmaBackbone, {"num_query_heads": 4, "num_key_value_heads": 1, "head_dim": 8}),
    # heads x head_dim is wider than the model, as in the 7B
    "7B": (GemmaBackbone, {"num_query_heads": 4, "num_key_value_heads": 4, "head_dim": 8}),
    "Gemma 2": (
        GemmaBackbone,
        {
            "num_query_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "use_post_ffw_norm": True,
            "use_post_attention_norm": True,
            "attention_logit_soft_cap": 50.0,
            "final_logit_soft_cap": 30.0,
            "use_sliding_window_attention": True,
            "sliding_window_size": 16,
        },
    ),
    "Gemma 3": (
        Gemma3Backbone,
        {
            "image_size": None,
            "num_query_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 8,
            "use_query_key_norm": True,
            "use_post_ffw_norm": True,
            "use_post_attention_norm": True,
            "use_sliding_window_attention": True,
            "sliding_window_size": 16,
        },
    ),
}
SUFFIX = {"gguf": ".gguf", "gemma_pytorch": ".ckpt"}
# 1 + w is stored in float32, so a float32 w comes back rounded to a place of 1.
STORED_AS_ONE_PLUS = {"gguf": 2**-23}


def model(name, dtype="float32"):
    kind, options = MODELS[name]
    return loud(kind(**SIZES, **options, dtype=dtype))


def weights(place):
    opened = open_checkpoint(place)
    found = {}
    for entry in opened.fit().entries:
        found |= dict(entry.to_ours(opened.tensors.read(entry.theirs)))
    return opened, found


@pytest.mark.parametrize("dtype", once_but(["float32", "bfloat16"], "bfloat16"))
@pytest.mark.parametrize("name", once_but(MODELS, "Gemma 3"))
@pytest.mark.parametrize("format", WRITTEN)
def test_there_and_back_is_exact(format, name, dtype, tmp_path):
    backbone = model(name, dtype)
    place = export_checkpoint(backbone, tmp_path / f"out{SUFFIX.get(format, '')}", format)
    opened, found = weights(place)
    assert opened.backbone == type(backbone).__name__
    config = backbone.get_config()
    assert {key: opened.config.get(key, config[key]) for key in config if key not in NAMES} == {
        key: value for key, value in config.items() if key not in NAMES
    }
    for variable in backbone.variables:
        expected, got = fetch(variable), found[variable.path]
        if variable.path.endswith("scale") and format in STORED_AS_ONE_PLUS:
            error = np.abs(got.astype("float64") - expected.astype("float64")).max()
            assert error <= STORED_AS_ONE_PLUS[format], variable.path
        else:
            assert np.array_equal(got.astype(expected.dtype), expected), variable.path


NAMES = ("name", "trainable", "dtype")


@pytest.mark.once
@pytest.mark.parametrize("format", WRITTEN)
def test_a_model_that_was_exported_is_a_preset(format, tmp_path):
    backbone = model("2B")
    place = export_checkpoint(backbone, tmp_path / f"out{SUFFIX.get(format, '')}", format)
    again = GemmaBackbone.from_preset(place)
    ids = {"token_ids": np.arange(12).reshape(2, 6), "padding_mask": np.ones((2, 6), int)}
    close(again(ids), backbone(ids))


@pytest.mark.once
@pytest.mark.parametrize("first", WRITTEN)
@pytest.mark.parametrize("second", WRITTEN)
def test_converting_needs_no_model(first, second, tmp_path):
    backbone = model("Gemma 2", "bfloat16")
    one = export_checkpoint(backbone, tmp_path / f"one{SUFFIX.get(first, '')}", first)
    two = tmp_path / f"two{SUFFIX.get(second, '')}"
    assert convert(one, two, second) == second
    _, found = weights(two)
    for variable in backbone.variables:
        expected = fetch(variable)
        assert np.array_equal(found[variable.path].astype(expected.dtype), expected)


@pytest.mark.once
def test_a_format_that_is_not_told_or_not_known_is_asked_for(tmp_path):
    with pytest.raises(ValueError, match="say which"):
        target_format(tmp_path / "out")
    with pytest.raises(ValueError, match="format='onnx' is not written"):
        target_format(tmp_path / "out", "onnx")
