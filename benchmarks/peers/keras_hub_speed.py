"""KerasHub's side of a scene."""

import keras_hub
import numpy as np
from timing import SIZES, arguments, report

dtype, prompt, rows, short, long = arguments()
sizes = {**SIZES, "intermediate_dim": 2 * SIZES["intermediate_dim"]}
backbone = keras_hub.models.GemmaBackbone(**sizes, dtype=dtype)
model = keras_hub.models.GemmaCausalLM(backbone, preprocessor=None)
model.compile(sampler="greedy")
ids = np.random.default_rng(0).integers(3, 255_000, (rows, prompt)).astype("int32")


def generate(count):
    width = ((0, 0), (0, count))
    inputs = {"token_ids": np.pad(ids, width), "padding_mask": np.pad(np.ones_like(ids), width)}
    model.generate(inputs, stop_token_ids=None)


report(generate, rows, short, long)
