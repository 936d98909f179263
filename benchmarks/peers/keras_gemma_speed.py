"""keras_gemma's side of a scene."""

import numpy as np
from timing import SIZES, arguments, report

from keras_gemma import GemmaBackbone, GemmaCausalLM

dtype, prompt, rows, short, long = arguments()
sizes = {**SIZES, "intermediate_dim": 2 * SIZES["intermediate_dim"]}
model = GemmaCausalLM(GemmaBackbone(**sizes, dtype=dtype), preprocessor=None)
ids = np.random.default_rng(0).integers(3, 255_000, (rows, prompt)).astype("int32")


def generate(count):
    inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    model.generate(inputs, max_length=prompt + count, stop_token_ids=None)


report(generate, rows, short, long)
