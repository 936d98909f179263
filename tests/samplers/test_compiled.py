"""Samplers run inside compiled loops, and inside graphs that can't branch."""

import keras
import numpy as np
import pytest
from keras import ops
from sampler_examples import WIDTH, context, different_logits, drawn

from keras_gemma.generation.compiled import compiler
from keras_gemma.samplers import (
    GreedySampler,
    MinPSampler,
    RandomSampler,
    Sampler,
    SamplingContext,
    TopKSampler,
    TopPSampler,
    TypicalSampler,
    row_settings,
)


class Rolling(Sampler):
    """As people write them for KerasHub: Keras's own random numbers."""

    def __init__(self):
        super().__init__()
        self.seed_generator = keras.random.SeedGenerator(1)

    def get_next_token(self, probabilities):
        draw = keras.random.categorical(ops.log(probabilities), 1, seed=self.seed_generator)
        return draw[:, 0]


def bounded(logits, context):
    """A user's step: no logit is above 3."""
    return ops.minimum(logits, 3.0)


DRAWING = {
    "random": RandomSampler(),
    "top_k": TopKSampler(3),
    "top_p": TopPSampler(0.8),
    "min_p": MinPSampler(0.1),
    "typical": TypicalSampler(0.8),
    "chain": Sampler(
        temperature=0.9,
        top_k=9,
        top_p=0.95,
        min_p=0.01,
        typical_p=0.9,
        repetition_penalty=1.1,
        presence_penalty=0.1,
        frequency_penalty=0.1,
        logit_bias={3: 1.0},
        banned_tokens=[0],
        forced_tokens=[5],
        steps=[bounded],
    ),
    "lists": Sampler(temperature=[0.5, 1.0, 2.0], top_p=[0.9, 1.0, 0.5], typical_p=[1.0, 0.9, 0.3]),
}


@pytest.mark.parametrize("name", ["rolling", *DRAWING])
def test_all_run_in_a_compiled_loop_as_they_do_outside(name):
    sampler = Rolling() if name == "rolling" else DRAWING[name]
    rows = different_logits(3, scale=0.5)
    made = compiler([], sampler.variables)

    def step(_, state):
        lengths = ops.sum(ops.cast(state > 0, "int32"), -1)
        ids = ops.maximum(state - 1, 0)  # 0 stands for no token yet
        given = SamplingContext(ids, lengths, state[:, 0], ops.ones_like(lengths))
        chosen = sampler(ops.convert_to_tensor(rows), given)
        here = ops.arange(20, dtype="int32")[None] == given.lengths[:, None]
        return ops.where(here, chosen[:, None] + 1, state)

    def whole(state):
        return made.loop(lambda s: ops.any(s == 0), step, state)

    start = np.zeros((3, 20), "int32")
    start[:, 0] = [1, 2, 3]
    text = ops.convert_to_numpy(made.program(whole)(ops.convert_to_tensor(start)))
    assert len({tuple(row) for row in text.tolist()}) == 3
    assert len(set(text[0, 1:].tolist())) > 1
    if name != "rolling":  # that one's numbers depend on how often it was called
        outside = ops.convert_to_tensor(start)
        for _ in range(19):
            outside = step((), outside)
        assert text.tolist() == ops.convert_to_numpy(outside).tolist()


@pytest.mark.parametrize("name", ["greedy", "settings", *DRAWING])
def test_all_can_be_traced_into_a_graph_that_has_no_condition(name, monkeypatch):
    # By `make_fx` on PyTorch, where a condition on a number would be an error.
    monkeypatch.setattr(Sampler, "candidates", None)
    sampler = {"greedy": GreedySampler(), "settings": Sampler(), **DRAWING}[name]
    settings = {}
    if name == "settings":
        settings = row_settings([DRAWING[own] for own in ("top_k", "min_p", "typical")])
    rows = different_logits(3, scale=0.5)
    given = context(3, ids=different_logits(3, width=4) > 0, settings=settings)

    def choose(logits, ids, lengths, seeds, prompts, settings):
        return sampler(logits, SamplingContext(ids, lengths, seeds, prompts, settings))

    traced = compiler([]).step(choose)
    for _ in range(2):
        got = ops.convert_to_numpy(traced(ops.convert_to_tensor(rows), *given))
        assert got.tolist() == drawn(sampler, rows, given).tolist()
        rows, given = rows[:, ::-1].copy(), given._replace(seeds=given.seeds + 5)
    assert WIDTH == rows.shape[1]
