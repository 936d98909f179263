"""Samplers draw what they promise, reproducibly, in any batch and in compiled programs."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_gemma import samplers
from keras_gemma.generation.compiled import compiler
from keras_gemma.samplers import (
    GreedySampler,
    RandomSampler,
    Sampler,
    SamplingContext,
    TopKSampler,
    TopPSampler,
)

WIDTH = 12


def context(rows, length=4, seeds=None):
    ids = np.tile(np.arange(length, dtype="int32"), (rows, 1))
    seeds = np.arange(rows) if seeds is None else np.array(seeds)
    return SamplingContext(
        ops.convert_to_tensor(ids),
        ops.full((rows,), length, "int32"),
        ops.convert_to_tensor(seeds.astype("int32")),
    )


def logits(rows=1, seed=0, width=WIDTH, scale=1.5):
    one = np.random.default_rng(seed).normal(0, scale, (1, width)).astype("float32")
    return np.repeat(one, rows, axis=0)


def drawn(sampler, logits_BV, given=None):
    given = given or context(len(logits_BV))
    return ops.convert_to_numpy(sampler(ops.convert_to_tensor(logits_BV), given))


def softmax(x):
    x = np.exp(x - x.max())
    return x / x.sum()


def kept_by_top_p(probabilities, p):
    """KerasHub's rule, written out: in order of size, while those before hold no more than p."""
    kept = np.zeros_like(probabilities)
    before = 0.0
    for token in np.argsort(-probabilities, kind="stable"):
        if before > p:
            break
        kept[token] = probabilities[token]
        before += probabilities[token]
    return kept


def kept_by_top_k(probabilities, k):
    return np.where(probabilities >= np.sort(probabilities)[-k], probabilities, 0)


@pytest.mark.parametrize(
    "sampler, keep",
    [
        (RandomSampler(), lambda p: p),
        (TopKSampler(4), lambda p: kept_by_top_k(p, 4)),
        (TopKSampler(1000), lambda p: p),
        (TopPSampler(0.7), lambda p: kept_by_top_p(p, 0.7)),
        (TopPSampler(0.9, k=3), lambda p: kept_by_top_p(kept_by_top_k(p, 3), 0.9)),
        (TopPSampler(1.0), lambda p: p),
        (TopPSampler(1.0, k=3), lambda p: kept_by_top_k(p, 3)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Sampler) else "",
)
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_draws_have_the_probabilities_of_the_kept_tokens(sampler, keep, temperature):
    stats = pytest.importorskip("scipy.stats")
    sampler.temperature, rows = temperature, 20_000
    counts = np.bincount(drawn(sampler, logits(rows)), minlength=WIDTH)
    expected = keep(softmax(logits()[0].astype("float64") / temperature))
    expected = rows * expected / expected.sum()
    assert counts[expected == 0].sum() == 0
    often = expected > 5
    assert counts[~often].sum() <= 5 * WIDTH
    scaled = expected[often] * counts[often].sum() / expected[often].sum()
    assert often.sum() == 1 or stats.chisquare(counts[often], scaled).pvalue > 1e-3


@pytest.mark.parametrize("p, k", [(0.1, None), (0.5, None), (0.95, 20), (0.0, None)])
def test_kept_sets_are_those_of_keras_hub(p, k, monkeypatch):
    module = pytest.importorskip("keras_hub.src.samplers.top_p_sampler")
    seen = []

    def categorical(log_probabilities, *args, **kwargs):
        seen.append(np.isfinite(ops.convert_to_numpy(log_probabilities)).sum(-1))
        return ops.zeros((len(log_probabilities), 1), "int32")

    probabilities = np.random.default_rng(0).dirichlet(np.full(50, 0.3), 40).astype("float32")
    monkeypatch.setattr(module.random, "categorical", categorical)
    module.TopPSampler(p=p, k=k).get_next_token(ops.convert_to_tensor(probabilities))
    likely, _ = samplers.steps.most_likely(ops.convert_to_tensor(probabilities), k)
    ours = ops.convert_to_numpy(samplers.steps.drop_tail(likely, p) > 0).sum(-1)
    assert (ours == seen[0]).all()
    assert (ours >= 1).all()


@pytest.mark.parametrize("p", [0.3, 0.999999])
def test_a_large_vocabulary_is_drawn_from_as_if_sorted(p):
    # At 0.999999 the first 1024 tokens hold less, and the whole vocabulary is sorted.
    flat = logits(8, width=5000)
    sampler = TopPSampler(p)
    assert drawn(sampler, flat).tolist() == drawn(TopPSampler(p, k=5000), flat).tolist()
    probabilities = softmax(flat[0].astype("float64"))
    kept = kept_by_top_p(probabilities, p)
    assert (kept[drawn(sampler, np.repeat(flat, 50, axis=0))] > 0).all()


@pytest.mark.parametrize("sampler", [RandomSampler(), TopKSampler(8), TopPSampler(0.9)])
def test_a_row_is_drawn_alike_whoever_shares_the_batch(sampler):
    rows = np.random.default_rng(1).normal(0, 2, (6, WIDTH)).astype("float32")
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
    "sampler", [GreedySampler(), TopKSampler(1), TopPSampler(0.0), RandomSampler(temperature=0)]
)
def test_these_take_the_likeliest(sampler):
    rows = np.random.default_rng(1).normal(0, 2, (6, WIDTH)).astype("float32")
    assert drawn(sampler, rows).tolist() == rows.argmax(-1).tolist()


def test_tokens_are_int32_and_logits_may_be_bfloat16():
    for sampler in (GreedySampler(), RandomSampler(), TopKSampler(), TopPSampler()):
        chosen = sampler(ops.cast(ops.convert_to_tensor(logits(2)), "bfloat16"), context(2))
        assert keras.backend.standardize_dtype(chosen.dtype) == "int32"
        assert tuple(chosen.shape) == (2,)


@pytest.mark.parametrize("penalty", [1.3, 0.8])
def test_repetition_is_penalized_as_in_transformers(penalty):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    ids = np.array([[3, 3, 5, 0], [1, 2, 9, 9]], "int32")
    rows = np.random.default_rng(2).normal(0, 2, (2, WIDTH)).astype("float32")
    given = SamplingContext(ids, np.array([3, 4], "int32"), np.zeros(2, "int32"))
    got = Sampler(repetition_penalty=penalty).adjusted(
        ops.convert_to_tensor(rows), SamplingContext(*map(ops.convert_to_tensor, given))
    )
    processor = transformers.RepetitionPenaltyLogitsProcessor(penalty)
    for i, length in enumerate(given.lengths):
        expected = processor(
            torch.tensor(ids[i : i + 1, :length], dtype=torch.long), torch.tensor(rows[i : i + 1])
        )
        np.testing.assert_allclose(ops.convert_to_numpy(got)[i], expected[0].numpy(), rtol=1e-6)


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


def test_a_sampler_without_get_next_token_says_what_is_missing():
    with pytest.raises(NotImplementedError, match="Sampler must define get_next_token"):
        drawn(Sampler(), logits())


def test_a_subclass_of_greedy_may_override_any_part():
    class Second(GreedySampler):
        def get_next_token(self, probabilities):
            return ops.top_k(probabilities, 2)[1][:, 1]

    assert drawn(Second(), logits()).tolist() == [np.argsort(-logits()[0])[1]]


def test_all_run_in_a_compiled_loop_and_keep_their_own_generator():
    class Rolling(Sampler):
        """As people write them for KerasHub: Keras's own random numbers."""

        def __init__(self):
            super().__init__()
            self.seed_generator = keras.random.SeedGenerator(1)

        def get_next_token(self, probabilities):
            draw = keras.random.categorical(ops.log(probabilities), 1, seed=self.seed_generator)
            return draw[:, 0]

    rows = np.zeros((3, WIDTH), "float32")
    for sampler in (Rolling(), RandomSampler(), TopPSampler(0.8), TopKSampler(3)):
        made = compiler([], sampler.variables)

        def step(state, sampler=sampler):
            given = SamplingContext(state, ops.sum(ops.cast(state > 0, "int32"), -1), state[:, 0])
            chosen = sampler(ops.convert_to_tensor(rows), given) + 1
            here = ops.arange(20, dtype="int32")[None] == given.lengths[:, None]
            return ops.where(here, chosen[:, None], state)

        def whole(state, made=made, step=step):
            return made.loop(lambda s: ops.any(s == 0), step, state)

        start = np.zeros((3, 20), "int32")
        start[:, 0] = [1, 2, 3]
        text = ops.convert_to_numpy(made.program(whole)(ops.convert_to_tensor(start)))
        assert len({tuple(row) for row in text.tolist()}) == 3
        assert len(set(text[0, 1:].tolist())) > 1


def test_called_by_hand_they_follow_their_seed_generator():
    probabilities = ops.ones((50, WIDTH)) / WIDTH
    first, second = RandomSampler(seed=3), RandomSampler(seed=3)
    texts = [
        ops.convert_to_numpy(s.get_next_token(probabilities)).tolist() for s in (first, second)
    ]
    assert texts[0] == texts[1]
    assert ops.convert_to_numpy(first.get_next_token(probabilities)).tolist() != texts[0]


@pytest.mark.parametrize(
    "made, arguments, said",
    [
        (TopKSampler, {"k": 0}, "k must be a whole number of at least 1, not 0"),
        (TopKSampler, {"k": 2.5}, "k must be"),
        (TopPSampler, {"p": 1.5}, r"p must be in \[0, 1\], not 1.5"),
        (TopPSampler, {"k": -1}, "k must be"),
        (RandomSampler, {"temperature": -1.0}, "temperature must be 0 or more"),
        (GreedySampler, {"repetition_penalty": 0.0}, "repetition_penalty must be above 0"),
    ],
)
def test_numbers_out_of_range_are_told_with_their_range(made, arguments, said):
    with pytest.raises(ValueError, match=said):
        made(**arguments)
