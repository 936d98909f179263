"""keras_gemma's side of a scene."""

import contextlib
import gc
import itertools
import os

import numpy as np
from batches import fit
from features import FEATURES
from shapes import SHAPES, both_branches
from timing import MEASURES, serve, versions

QUANTIZED = ("int8", "int4")


def drawn(sizes, dtype):
    """A backbone of random weights, which lie as those of a preset do: drawn ones come in small pages."""
    from keras_gemma import GemmaBackbone
    from keras_gemma.arrays import place, usable
    from keras_gemma.layers import left_blank

    with left_blank():
        backbone = GemmaBackbone(**sizes, dtype=dtype)
    noise = np.random.default_rng(0).normal(0, 0.02, 2**20 - 1).astype("float32")
    for variable in backbone.variables:
        place(variable, usable(np.resize(noise, variable.shape), dtype))
    return backbone


class Model:
    """A `GemmaCausalLM` of random weights."""

    def __init__(self, shape, dtype, cores):
        import keras

        from keras_gemma import GemmaCausalLM
        from keras_gemma.generation import kernels

        backbone = drawn(both_branches(SHAPES[shape]), "float32" if dtype in QUANTIZED else dtype)
        self.model = GemmaCausalLM(backbone, preprocessor=None)
        if dtype in QUANTIZED:
            self.model.quantize(dtype)
        self.options = {"plan": os.environ.get("KERAS_GEMMA_SPEED_PLAN", "auto")}
        self.model.compile(**self.options)
        self.batches = {}
        backend, found = keras.config.backend(), kernels.found()
        self.facts = {
            "versions": versions("keras-gemma", "keras", backend, "keras-gemma-kernels"),
            "kernels": found.told if found.used else None,
        }

    def generate(self, ids, count, room, **keywords):
        inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
        length = ids.shape[1] + count
        made = self.model.generate(inputs, max_length=length, stop_token_ids=None, **keywords)
        return made["token_ids"][:, -count:]

    def answer_all(self, requests, slots, gap):
        from keras_gemma.generation import Request, SlotBatch

        engine = self.model._engine()
        length = max(len(ids) + count for ids, count in requests)
        if (engine, slots, length) not in self.batches:  # a batch compiles for itself
            self.batches = {(engine, slots, length): SlotBatch(engine, slots, length)}
        batch = self.batches[engine, slots, length]
        coming, tickets = iter(requests), []
        while len(tickets) < len(requests) or batch.is_busy:
            for ids, count in itertools.islice(coming, 1):
                tickets.append(batch.submit(Request(ids.tolist(), len(ids) + count)))
            batch.step(gap)
        return [ticket.ids for ticket in tickets]

    def prepare(self, rank):
        from keras_gemma.optimizers import AdamW

        if rank:
            self.model.backbone.enable_lora(rank)
        self.model.compile(AdamW(1e-4))

    def train(self, ids, rows):
        return fit(self.model, ids, rows)

    @contextlib.contextmanager
    def compiled(self, **options):
        """With other arguments of `compile` for a while."""
        self._compile(**options)
        try:
            yield
        finally:
            self._compile()

    def _compile(self, **options):
        self.batches = {}
        self.model.compile(**{**self.options, **options})
        gc.collect()  # the plan of before


if __name__ == "__main__":
    serve(Model, {**MEASURES, **FEATURES})
