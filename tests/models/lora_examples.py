"""Small models with adapters, for the tests of LoRA."""

import keras
import numpy as np
from conftest import SIZES, loud

from keras_gemma import GemmaBackbone, GemmaCausalLM

IDS = np.array([[5, 6, 7, 8, 9, 10, 11], [3, 4, 5, 6, 7, 8, 9]], "int32")
BATCH = {"token_ids": IDS, "padding_mask": np.ones_like(IDS)}


def model(mode=None, plan="auto", seed=0, **more):
    sizes = {**SIZES, "hidden_dim": 32, "num_layers": 2, **more}
    lm = GemmaCausalLM(loud(GemmaBackbone(**sizes), seed, scale=0.3))
    if mode:
        lm.quantize(mode)
    lm.compile(sampler="greedy", plan=plan)
    return lm


def logits(lm):
    return keras.ops.convert_to_numpy(lm(BATCH))


def drawn(backbone, seed=1, spread=0.3):
    """Numbers for the active adapter, as if it had been trained."""
    random = np.random.default_rng(seed)
    for variable in backbone.trainable_variables:
        variable.assign(random.normal("magnitude" in variable.name, spread, variable.shape))


def adapted(mode=None, seed=1, plan="auto", **options):
    lm = model(mode, plan)
    lm.backbone.enable_lora(3, **options)
    drawn(lm.backbone, seed)
    return lm
