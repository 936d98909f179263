"""Loops by CUDA graphs, without a GPU: what is recorded is done again, at the same places."""

import keras
import numpy as np
import pytest

from keras_gemma import GemmaCausalLM
from keras_gemma.generation import Request, compiled
from keras_gemma.samplers import GreedySampler

pytestmark = pytest.mark.skipif(keras.config.backend() != "torch", reason="graphs of PyTorch")
PROMPTS = [np.random.default_rng(rows).integers(1, 96, (rows, 6)) for rows in (1, 3, 1)]


def texts(model, lengths=(20, 20, 24)):
    made = []
    for ids, length in zip(PROMPTS, lengths):
        inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
        out = model.generate(inputs, max_length=length, stop_token_ids=None, seed=3)
        made.append(np.asarray(out["token_ids"]).tolist())
    return made


@pytest.fixture
def recorded(monkeypatch):
    """The steps that were recorded, as on a GPU."""
    from keras_gemma.generation import cuda_loop

    steps = []

    class Again:
        def __call__(self, function):
            steps.append(function)
            return function

    def loop(self, while_true, step, state, given=(), whole=False):
        if whole:
            return self._whole_loop(while_true, step, state, given)
        return compiled.Compiler.loop(self, while_true, step, state, given)

    monkeypatch.setattr(cuda_loop, "Recorder", Again)
    monkeypatch.setattr(compiled.TorchCompiler, "loop", loop)
    monkeypatch.setenv("KERAS_GEMMA_KERNELS", "0")  # a GPU has none
    return steps


@pytest.mark.parametrize(
    "sampler, options",
    [
        ("greedy", {}),
        ("top_p", {}),
        ("random", {"plan": "none"}),
        ("greedy", {"draft": "prompt_lookup"}),
        ("random", {"draft": "prompt_lookup"}),
    ],
)
def test_texts_are_those_of_steps_one_by_one(backbone, request, sampler, options):
    model = GemmaCausalLM(backbone, preprocessor=None)
    model.compile(sampler=sampler, **options)
    expected = texts(model)
    recorded = request.getfixturevalue("recorded")
    model.compile(sampler=sampler, **options)
    assert texts(model) == expected
    assert recorded


def test_new_weights_are_followed(backbone, recorded):
    model = GemmaCausalLM(backbone, preprocessor=None)
    model.compile(sampler="greedy")
    before = texts(model)
    kernel = backbone.get_layer("decoder_block_1").attention.query_dense.kernel
    kernel.assign(kernel * -1.0)
    after = texts(model)
    other = GemmaCausalLM(backbone, preprocessor=None)
    other.compile(sampler="greedy")
    assert after != before
    assert texts(other) == after


def test_a_text_that_is_made_stays_when_another_is_made(backbone, recorded):
    model = GemmaCausalLM(backbone, preprocessor=None)
    model.compile(sampler="greedy")
    engine = model._engine()

    def run(state, count):
        for _ in range(count):
            state = engine.advance(state, 3)
        return state

    first, second = (engine.start([Request(p[0].tolist(), 24)]) for p in (PROMPTS[0], PROMPTS[1]))
    for _ in range(6):  # in turns
        first, second = run(first, 1), run(second, 1)
    alone = run(engine.start([Request(PROMPTS[0][0].tolist(), 24)]), 6)
    kept = keras.ops.convert_to_numpy(first.token_ids)
    assert np.array_equal(kept, keras.ops.convert_to_numpy(alone.token_ids))
    assert len(recorded) >= 2


def test_a_sampler_of_yours_is_called_at_each_step(backbone, recorded):
    calls = []

    def counted(logits, context):
        calls.append(1)
        return logits

    model = GemmaCausalLM(backbone, preprocessor=None)
    model.compile(sampler=GreedySampler(steps=[counted]))
    texts(model)
    assert len(calls) >= 14 + 14 + 18
    assert not recorded


def test_what_cannot_be_recorded_runs_all_the_same_and_says_so(backbone, recorded, monkeypatch):
    from keras_gemma.generation import cuda_loop

    model = GemmaCausalLM(backbone, preprocessor=None)
    model.compile(sampler="greedy")
    expected = texts(model)

    def fails(*_):
        raise RuntimeError("no memory for a graph")

    monkeypatch.setattr(cuda_loop, "traced", fails)
    model.compile(sampler="greedy")
    with pytest.warns(UserWarning, match="no memory for a graph"):
        assert texts(model) == expected
