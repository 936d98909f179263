"""`.lora.h5` between KerasHub and here, both ways; and the gradient of its LoRA."""

import keras
import numpy as np
import pytest
from conftest import SIZES, close, loud, once_but

from keras_gemma import Gemma3Backbone, GemmaBackbone
from keras_gemma.models.lora import TARGETS

keras_hub = pytest.importorskip("keras_hub", reason="keras-hub is not installed")

IDS = np.array([[5, 6, 7, 8, 9, 10, 11]], "int32")
BATCH = {"token_ids": IDS, "padding_mask": np.ones_like(IDS)}
POST = {"use_post_ffw_norm": True, "use_post_attention_norm": True}
KINDS = {
    "gemma": (GemmaBackbone, "GemmaBackbone", {"dropout": 0.1}),
    "gemma2": (GemmaBackbone, "GemmaBackbone", POST),
    "gemma3": (Gemma3Backbone, "Gemma3Backbone", {**POST, "image_size": None}),
}


def pair(kind):
    ours, theirs, more = KINDS[kind]
    sizes = {**SIZES, "num_layers": 2, **more}
    backbone = loud(ours(**sizes), scale=0.3)
    other = getattr(keras_hub.models, theirs)(
        **{**sizes, **({"vision_encoder": None} if kind == "gemma3" else {})}
    )
    weights = {v.path: v for v in backbone.weights}
    for variable in other.weights:
        variable.assign(weights[variable.path])
    return backbone, other


def drawn(backbone):
    random = np.random.default_rng(1)
    for variable in backbone.trainable_variables:
        variable.assign(random.normal(0, 0.3, variable.shape))


@pytest.mark.parametrize("targets", once_but([None, list(TARGETS)], list(TARGETS)))
@pytest.mark.parametrize("kind", KINDS)
def test_each_reads_the_others_file(kind, targets, tmp_path):
    ours, theirs = pair(kind)
    for backbone in (ours, theirs):
        backbone.enable_lora(3, targets)
    assert {v.path for v in ours.trainable_variables} == {
        v.path for v in theirs.trainable_variables
    }
    drawn(theirs)
    theirs.save_lora_weights(str(tmp_path / "theirs.lora.h5"))
    ours.load_lora_weights(tmp_path / "theirs.lora.h5")
    close(ours(BATCH), theirs(BATCH), 1e-5)
    drawn(ours)
    ours.save_lora_weights(tmp_path / "ours.lora.h5")
    theirs.load_lora_weights(str(tmp_path / "ours.lora.h5"))
    close(ours(BATCH), theirs(BATCH), 1e-5)


@pytest.mark.parametrize("way", [{"alpha": 12}, {"alpha": 5, "use_rslora": True}])
def test_a_scale_that_keras_hub_does_not_know_is_in_the_file(way, tmp_path):
    ours, theirs = pair("gemma2")
    ours.enable_lora(3, **way)
    drawn(ours)
    ours.save_lora_weights(tmp_path / "a.lora.h5")
    theirs.load_lora_weights(str(tmp_path / "a.lora.h5"))
    close(ours(BATCH), theirs(BATCH), 1e-5)


def test_keras_hub_does_not_take_a_dora_for_lora(tmp_path):
    ours, theirs = pair("gemma2")
    ours.enable_lora(3, use_dora=True)
    ours.save_lora_weights(tmp_path / "a.lora.h5")
    with pytest.raises(KeyError, match="lora_kernel_a"):
        theirs.load_lora_weights(str(tmp_path / "a.lora.h5"))


def test_weights_saved_with_an_adapter_are_merged_by_both(tmp_path):
    ours, theirs = pair("gemma2")
    for backbone in (ours, theirs):
        backbone.enable_lora(3)
        drawn(backbone)
        backbone.save_weights(tmp_path / f"{backbone.__module__[:9]}.weights.h5")
    made = [keras.ops.convert_to_numpy(each(BATCH)) for each in (ours, theirs)]
    plain, _ = pair("gemma2")
    for expected, path in zip(made, sorted(tmp_path.glob("*.weights.h5"), reverse=True)):
        plain.load_weights(path)
        close(plain(BATCH), expected, 1e-5)
