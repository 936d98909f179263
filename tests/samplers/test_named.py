"""Named samplers draw reproducibly, in any batch; and people derive their own from them."""

import keras
import numpy as np
import pytest
from keras import ops
from sampler_examples import WIDTH, context, different_logits, drawn, logits

from keras_gemma import samplers
from keras_gemma.samplers import (
    GreedySampler,
    MinPSampler,
    RandomSampler,
    Sampler,
    TopKSampler,
    TopPSampler,
    TypicalSampler,
)

ALL = (
    GreedySampler(),
    RandomSampler(),
    TopKSampler(8),
    TopPSampler(0.9),
    MinPSampler(0.1),
    TypicalSampler(0.8),
    Sampler(temperature=0.8, top_k=8, top_p=0.95, min_p=0.02, typical_p=0.9),
)


@pytest.mark.parametrize("sampler", ALL, ids=lambda sampler: type(sampler).__name__)
def test_a_row_is_drawn_alike_whoever_shares_the_batch(sampler):
    rows = different_logits(6)
    together = drawn(sampler, rows, context(6))
    alone = [drawn(sampler, rows[i : i + 1], context(1, seeds=[i]))[0] for i in range(6)]
    assert together.tolist() == alone


def test_another_seed_or_position_draws_anew():
    flat = np.zeros((200, WIDTH), "float32")
    sampler, same = RandomSampler(), np.full(200, 3)
    first = drawn(sampler, flat, context(200, seeds=same))
    assert len(set(first.tolist())) == 1
    lengths = ops.arange(200, dtype="int32")
    positions = drawn(sampler, flat, context(200, seeds=same)._replace(lengths=lengths))
    assert len(set(positions.tolist())) == WIDTH
    assert len(set(drawn(sampler, flat, context(200)).tolist())) == WIDTH


def test_draws_are_these_on_every_backend():
    got = drawn(RandomSampler(), logits(10)).tolist()
    assert got == [7, 11, 2, 5, 6, 8, 0, 5, 6, 6]


@pytest.mark.parametrize(
    "sampler",
    [
        GreedySampler(),
        TopKSampler(1),
        TopPSampler(0.0),
        MinPSampler(1.0),
        RandomSampler(temperature=0),
        RandomSampler(temperature=1e-40),  # no float32 that can be divided by
        RandomSampler(temperature=1e-37),  # makes infinity of the differences
        TypicalSampler(temperature=0),
        Sampler(temperature=[0] * 6, typical_p=0.5),
    ],
)
def test_these_take_the_likeliest(sampler):
    rows = different_logits(6)
    assert drawn(sampler, rows).tolist() == rows.argmax(-1).tolist()


def test_tokens_are_int32_and_logits_may_be_bfloat16():
    for sampler in ALL:
        chosen = sampler(ops.cast(ops.convert_to_tensor(logits(2)), "bfloat16"), context(2))
        assert keras.backend.standardize_dtype(chosen.dtype) == "int32"
        assert tuple(chosen.shape) == (2,)


def test_a_sampler_of_ones_own_defines_get_next_token_only():
    class Forbidding(samplers.Sampler):
        def __init__(self, forbidden, **kwargs):
            super().__init__(**kwargs)
            self.forbidden = forbidden

        def get_next_token(self, probs):
            batch_size, _ = ops.shape(probs)
            for token in self.forbidden:
                probs = ops.slice_update(probs, (0, token), ops.zeros((batch_size, 1)))
            return ops.argmax(probs, axis=-1)

    rows = logits(2)
    order = np.argsort(-rows[0])
    assert drawn(Forbidding(order[:2].tolist()), rows).tolist() == [order[2]] * 2


def test_a_subclass_of_greedy_may_override_any_part():
    class Second(GreedySampler):
        def get_next_token(self, probabilities):
            return ops.top_k(probabilities, 2)[1][:, 1]

    assert drawn(Second(), logits()).tolist() == [np.argsort(-logits()[0])[1]]


def test_called_by_hand_they_follow_their_seed_generator():
    probabilities = ops.ones((50, WIDTH)) / WIDTH
    first, second = RandomSampler(seed=3), RandomSampler(seed=3)
    texts = [
        ops.convert_to_numpy(s.get_next_token(probabilities)).tolist() for s in (first, second)
    ]
    assert texts[0] == texts[1]
    assert ops.convert_to_numpy(first.get_next_token(probabilities)).tolist() != texts[0]


def test_a_plain_sampler_called_by_hand_follows_its_seed_or_that_of_keras():
    probabilities = ops.ones((50, WIDTH)) / WIDTH
    assert not Sampler().variables
    texts = [ops.convert_to_numpy(Sampler(seed=3).get_next_token(probabilities)) for _ in "ab"]
    assert texts[0].tolist() == texts[1].tolist()
    keras.utils.set_random_seed(0)
    first = ops.convert_to_numpy(Sampler().get_next_token(probabilities)).tolist()
    keras.utils.set_random_seed(0)
    assert ops.convert_to_numpy(Sampler().get_next_token(probabilities)).tolist() == first


def test_by_hand_the_cut_is_made_of_the_probabilities_given():
    probabilities = ops.convert_to_tensor(np.tile([[0.1, 0.6, 0.3]], (200, 1)).astype("float32"))
    drawn_ids = ops.convert_to_numpy(TopPSampler(0.7, seed=1).get_next_token(probabilities))
    assert set(drawn_ids.tolist()) == {1, 2}
