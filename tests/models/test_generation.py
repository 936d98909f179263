"""Generation says what the forward pass says, however it is asked."""

import keras
import numpy as np
import pytest
from conftest import SIZES, WINDOWED, loud
from keras import ops

from keras_gemma import GemmaBackbone, GemmaCausalLM
from keras_gemma.samplers import GreedySampler, RandomSampler, Sampler, TopKSampler

PROMPTS = [np.random.default_rng(3).integers(1, 96, n).tolist() for n in (3, 11, 17)]


@pytest.fixture(scope="module")
def model():
    return GemmaCausalLM(loud(GemmaBackbone(**SIZES, **WINDOWED)))


def arrays(prompts, width=40):
    ids, mask = np.zeros((len(prompts), width), "int32"), np.zeros((len(prompts), width), "int32")
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)], mask[row, : len(prompt)] = prompt, 1
    return {"token_ids": ids, "padding_mask": mask}


def naive(model, prompt, count, stop=()):
    """Full forward passes and argmax, one token after another."""
    ids = list(prompt)
    for _ in range(count):
        row = np.zeros((1, 40), "int32")
        row[0, : len(ids)] = ids
        mask = (np.arange(40) < len(ids))[None].astype("int32")
        logits = model.predict_on_batch({"token_ids": row, "padding_mask": mask})
        ids.append(int(logits[0, len(ids) - 1].argmax()))
        if ids[-1] in stop:
            break
    return ids


def test_ragged_prompts_in_a_batch_give_what_each_gives_alone(model):
    out = model.generate(arrays(PROMPTS), stop_token_ids=None, max_new_tokens=12)
    for row, mask, prompt in zip(out["token_ids"], out["padding_mask"], PROMPTS):
        assert row[mask].tolist() == naive(model, prompt, 12)
    assert len(set(out["token_ids"].ravel().tolist())) > 20


def test_a_row_stops_at_its_stop_token_and_the_others_go_on(model):
    whole = [naive(model, prompt, 12) for prompt in PROMPTS]
    stop = whole[0][len(PROMPTS[0]) + 4]
    out = model.generate(arrays(PROMPTS), stop_token_ids=[stop], max_new_tokens=12)
    for row, mask, prompt in zip(out["token_ids"], out["padding_mask"], PROMPTS):
        assert row[mask].tolist() == naive(model, prompt, 12, {stop})


def test_ids_and_a_stream_of_ids_are_the_same(model):
    expected = naive(model, PROMPTS[1], 9)[11:]
    keywords = {"max_new_tokens": 9, "stop_token_ids": None}
    assert model.generate_ids(PROMPTS[1], **keywords) == expected
    assert list(model.stream_ids(PROMPTS[1], **keywords)) == expected


def test_the_next_token_follows_new_weights(model):
    other = GemmaCausalLM(loud(GemmaBackbone(**SIZES, **WINDOWED)))
    keywords = {"max_new_tokens": 5, "stop_token_ids": None}
    before = other.generate_ids(PROMPTS[0], **keywords)
    loud(other.backbone, seed=5)
    after = other.generate_ids(PROMPTS[0], **keywords)
    assert after == naive(other, PROMPTS[0], 5)[3:] != before


def test_a_seed_gives_the_same_text_and_no_seed_follows_keras(model):
    model.compile(sampler="random")
    keywords = {"max_new_tokens": 8, "stop_token_ids": None}
    first = model.generate_ids(PROMPTS[0], seed=1, **keywords)
    assert first == model.generate_ids(PROMPTS[0], seed=1, **keywords)
    assert first != model.generate_ids(PROMPTS[0], seed=2, **keywords)
    free = []
    for _ in range(2):
        keras.utils.set_random_seed(7)
        free.append([model.generate_ids(PROMPTS[0], **keywords) for _ in range(2)])
    assert free[0] == free[1] and free[0][0] != free[0][1]
    model.compile(sampler="greedy")


@pytest.mark.once
def test_rows_of_one_prompt_differ_when_sampled(model):
    model.compile(sampler=RandomSampler(seed=3))
    out = model.generate(arrays([PROMPTS[0]] * 3), stop_token_ids=None, max_new_tokens=8)
    rows = {tuple(row) for row in out["token_ids"].tolist()}
    alone = model.generate(arrays([PROMPTS[0]]), stop_token_ids=None, max_new_tokens=8)
    assert len(rows) == 3 and tuple(alone["token_ids"][0].tolist()) in rows
    model.compile(sampler="greedy")


def test_a_sampler_of_the_users_own(model):
    class Second(Sampler):
        """The second likeliest token."""

        def get_next_token(self, probabilities):
            return ops.top_k(probabilities, 2)[1][:, 1]

    class Drawn(Sampler):
        """A draw by Keras, whose seed moves on."""

        def __init__(self, seed):
            super().__init__()
            self.seed_generator = keras.random.SeedGenerator(seed)

        def get_next_token(self, probabilities):
            return keras.random.categorical(
                ops.log(probabilities), 1, seed=self.seed_generator, dtype="int32"
            )[:, 0]

    keywords = {"max_new_tokens": 6, "stop_token_ids": None}
    greedy = model.generate_ids(PROMPTS[0], **keywords)
    model.compile(sampler=Second())
    assert model.generate_ids(PROMPTS[0], **keywords)[0] != greedy[0]
    texts = []
    for _ in range(2):
        model.compile(sampler=Drawn(4))
        texts.append([model.generate_ids(PROMPTS[0], **keywords) for _ in range(2)])
    assert texts[0] == texts[1] and texts[0][0] != texts[0][1]
    model.compile(sampler="greedy")


@pytest.mark.once
def test_one_candidate_is_greedy(model):
    keywords = {"max_new_tokens": 6, "stop_token_ids": None}
    greedy = model.generate_ids(PROMPTS[2], **keywords)
    model.compile(sampler=TopKSampler(k=1))
    assert model.generate_ids(PROMPTS[2], **keywords) == greedy
    model.compile(sampler=GreedySampler())


def test_eager_generation_equals_compiled():
    model = GemmaCausalLM(loud(GemmaBackbone(**SIZES, **WINDOWED)))
    model.compile(run_eagerly=True)
    got = model.generate_ids(PROMPTS[0], max_new_tokens=4, stop_token_ids=None)
    assert got == naive(model, PROMPTS[0], 4)[3:]


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"max_length": 0}, ValueError, "max_length must be at least 1"),
        ({"max_length": -3}, ValueError, "max_length must be at least 1"),
        ({"max_new_tokens": -1}, ValueError, "max_new_tokens must be at least 0"),
        ({"max_length": 2}, ValueError, "17 tokens does not fit max_length=2"),
        ({"max_length": 1.5}, TypeError, "whole number"),
        ({"stop_token_ids": "never", "max_new_tokens": 1}, ValueError, "stop_token_ids must be"),
    ],
)
def test_bad_limits_are_told(model, change, error, message):
    with pytest.raises(error, match=message):
        model.generate_ids(PROMPTS[2], **{"stop_token_ids": None, **change})


def test_a_text_beyond_the_context_is_told_with_what_fits(model, monkeypatch):
    assert model.context_length == 8192
    with pytest.raises(ValueError, match="texts of 8,192: 8,175 new tokens fit"):
        model.generate_ids(PROMPTS[2], max_new_tokens=8176, stop_token_ids=None)
    monkeypatch.setattr(model, "context_length", 20)
    with pytest.raises(ValueError, match="3 new tokens fit"):
        model.generate_ids(PROMPTS[2], max_length=21, stop_token_ids=None)
    made = model.generate_ids(PROMPTS[2], max_new_tokens=3, stop_token_ids=None)
    assert made == naive(model, PROMPTS[2], 3)[17:]


def test_a_limit_of_zero_is_told_for_arrays_too(model):
    with pytest.raises(ValueError, match="max_length must be at least 1"):
        model.generate(arrays(PROMPTS), max_length=0, stop_token_ids=None)


def test_ids_outside_the_vocabulary_are_told(model):
    with pytest.raises(ValueError, match="Id 96 is outside the vocabulary of 96"):
        model.generate_ids([1, 96], max_new_tokens=2, stop_token_ids=None)


def test_text_without_a_preprocessor_is_told(model):
    with pytest.raises(ValueError, match="preprocessor"):
        model.generate("Hello")


def test_nothing_to_add_gives_the_prompt_back(model):
    assert model.generate_ids(PROMPTS[0], max_new_tokens=0, stop_token_ids=None) == []
    out = model.generate(arrays(PROMPTS[:1], 3), stop_token_ids=None)
    assert out["token_ids"].tolist() == [PROMPTS[0]]


@pytest.mark.once
def test_one_string_in_an_array_gives_one_string():
    bundled = GemmaCausalLM.from_preset("gemma_tiny_en")
    keywords = {"max_new_tokens": 2, "stop_token_ids": None}
    expected = bundled.generate("The", **keywords)
    # As NumPy has it, and as TensorFlow's scalars come.
    for one in (np.array("The"), np.array(b"The", object)):
        assert bundled.generate(one, **keywords) == expected
        assert bundled.generate(one[None], **keywords) == [expected]
