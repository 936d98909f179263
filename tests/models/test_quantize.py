"""A quantized model computes with the floats that its whole numbers stand for, and is saved as such."""

import keras
import numpy as np
import pytest
from conftest import SIZES, close, loud, once_but
from keras.quantizers import Int4QuantizationConfig

from keras_gemma import GemmaBackbone, GemmaCausalLM
from keras_gemma.models.quantizable import quantizable_layers
from keras_gemma.quantization import floats_of

IDS = np.array([[5, 6, 7, 8, 9, 10, 11], [3, 4, 5, 6, 7, 8, 9]], "int32")
BATCH = {"token_ids": IDS, "padding_mask": np.ones_like(IDS)}
FORMS = {
    "int8": {"mode": "int8"},
    "int4": {"mode": "int4"},
    "int4 in blocks of 8": {"config": Int4QuantizationConfig(block_size=8)},
    "int4 in whole rows": {"config": Int4QuantizationConfig(block_size=-1)},
}


def model(preprocessor=None, **more):
    sizes = {**SIZES, "hidden_dim": 32, **more}
    lm = GemmaCausalLM(loud(GemmaBackbone(**sizes)), preprocessor)
    lm.compile(sampler="greedy")
    return lm


def logits(lm):
    return keras.ops.convert_to_numpy(lm(BATCH))


@pytest.mark.parametrize("form", once_but(FORMS, "int8", "int4 in blocks of 8"))
def test_it_computes_with_the_floats_that_its_numbers_stand_for(form):
    lm, floats = model(), model()
    exact = logits(floats)
    lm.quantize(**FORMS[form])
    for layer, quantized in zip(*map(quantizable_layers, (floats, lm))):
        variable = layer.embeddings if hasattr(layer, "embeddings") else layer.kernel
        variable.assign(floats_of(quantized))
    close(logits(lm), logits(floats), 1e-5)
    assert (logits(lm) != exact).any()


def test_a_text_made_before_is_not_held_on_to():
    lm, fresh = model(), model()
    before = lm.generate(BATCH, max_length=14, stop_token_ids=None)["token_ids"]
    for each in (lm, fresh):
        each.quantize("int4")
    after, expected = (
        each.generate(BATCH, max_length=14, stop_token_ids=None)["token_ids"]
        for each in (lm, fresh)
    )
    assert (after == expected).all()
    assert (after != before).any()


@pytest.mark.parametrize("form", once_but(["int8", "int4"], "int4"))
def test_it_is_saved_and_loaded_as_it_is(form, tmp_path):
    tiny = GemmaCausalLM.from_preset("gemma_tiny_en")
    weights = tiny.count_params()
    tiny.quantize(form)
    tiny.save_to_preset(tmp_path / "preset")
    tiny.save(tmp_path / "whole.keras")
    bytes_of = (tmp_path / "preset" / "model.weights.h5").stat().st_size
    assert bytes_of < weights * (1.2 if form == "int8" else 0.8)  # scales, and HDF5's own
    from_preset = GemmaCausalLM.from_preset(str(tmp_path / "preset"))
    for again in (from_preset, keras.saving.load_model(tmp_path / "whole.keras")):
        assert {layer.quantization_mode for layer in quantizable_layers(again)} == {form}
        assert (logits(again) == logits(tiny)).all()
    widened = GemmaCausalLM.from_preset(str(tmp_path / "preset"), dtype="float32")
    assert {layer.quantization_mode for layer in quantizable_layers(widened)} == {None}
    close(logits(widened), logits(tiny), 1e-5)


@pytest.mark.parametrize("form", once_but(["int8", "int4"], "int4"))
def test_only_norms_are_trained_then(form):
    lm = model()
    lm.quantize(form)
    assert {v.path.rpartition("/")[2] for v in lm.trainable_variables} == {"scale"}
    before = [np.asarray(v) for v in lm.non_trainable_variables if "int" in str(v.dtype)]
    lm.compile(optimizer=keras.optimizers.SGD(0.1))
    lm.train_on_batch(BATCH, IDS)
    after = [np.asarray(v) for v in lm.non_trainable_variables if "int" in str(v.dtype)]
    assert all((a == b).all() for a, b in zip(before, after))


@pytest.mark.once
def test_some_layers_may_stay_floats():
    lm = model()
    lm.quantize("int8", filters="ffw")
    quantized = [layer.name for layer in quantizable_layers(lm) if layer.quantization_mode]
    assert quantized and all("ffw" in name for name in quantized)


@pytest.mark.once
def test_twice_and_with_lora_is_refused():
    lm = model()
    lm.quantize("int8")
    with pytest.raises(ValueError, match="is quantized already: load the model anew"):
        lm.quantize("int4")
    tuned = model()
    tuned.backbone.stack.blocks[0].ffw_linear.enable_lora(2)
    with pytest.raises(ValueError, match="carries LoRA"):
        tuned.quantize("int8")
    assert {layer.quantization_mode for layer in quantizable_layers(tuned)} == {None}
