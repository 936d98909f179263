"""KerasHub's side of a scene."""

from typing import Any

import numpy as np
from batches import fit
from shapes import SHAPES, both_branches
from timing import serve, versions


class Model:
    """A `keras_hub.models.GemmaCausalLM` of random weights."""

    def __init__(self, shape, dtype, cores):
        import keras
        import keras_hub

        self.vocabulary = SHAPES[shape]["vocabulary_size"]
        backbone = keras_hub.models.GemmaBackbone(**both_branches(SHAPES[shape]), dtype=dtype)
        self.model = keras_hub.models.GemmaCausalLM(backbone, preprocessor=None)
        self.model.compile(sampler="greedy")
        self.facts = {"versions": versions("keras-hub", "keras", keras.config.backend())}

    def generate(self, ids, count, room):
        # It compiles for, and reads, all of the room. So that an answer of `count` tokens differs
        # from one of `room` by its steps alone, the room left over stands in the prompt.
        rows, left = ids.shape[0], room - count
        ids = np.concatenate([ids, np.full((rows, left), self.vocabulary // 2, "int32")], axis=1)
        width = ((0, 0), (0, count))
        inputs = {"token_ids": np.pad(ids, width), "padding_mask": np.pad(np.ones_like(ids), width)}
        made: Any = self.model.generate(inputs, stop_token_ids=None)
        return made["token_ids"][:, -count:]

    def prepare(self, rank):
        import keras

        if rank:
            self.model.backbone.enable_lora(rank)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.model.compile(keras.optimizers.AdamW(1e-4), loss)

    def train(self, ids, rows):
        return fit(self.model, ids, rows)


if __name__ == "__main__":
    serve(Model)
