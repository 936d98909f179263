"""What may be drawn, and how often, against the definitions of the papers in NumPy."""

import keras
import numpy as np
import pytest
from conftest import once_but
from keras import ops
from sampler_examples import (
    WIDTH,
    context,
    different_logits,
    drawn,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    keep_typical,
    logits,
    softmax,
)

from keras_gemma.samplers import (
    MinPSampler,
    RandomSampler,
    Sampler,
    TopKSampler,
    TopPSampler,
    TypicalSampler,
)
from keras_gemma.samplers.truncation import Truncation, leading, most_likely
from keras_gemma.samplers.truncation import keep_typical as kept_typical

CASES = {
    "random": (RandomSampler, {}, lambda p: p),
    "top_k": (TopKSampler, {"k": 4}, lambda p: keep_top_k(p, 4)),
    "top_k of all": (TopKSampler, {"k": 1000}, lambda p: p),
    "top_p": (TopPSampler, {"p": 0.7}, lambda p: keep_top_p(p, 0.7)),
    "top_p, top_k": (
        TopPSampler,
        {"p": 0.9, "k": 3},
        lambda p: keep_top_p(keep_top_k(p, 3), 0.9),
    ),
    "top_p of all": (TopPSampler, {"p": 1.0}, lambda p: p),
    "top_p of all, top_k": (TopPSampler, {"p": 1.0, "k": 3}, lambda p: keep_top_k(p, 3)),
    "min_p": (MinPSampler, {"p": 0.15}, lambda p: keep_min_p(p, 0.15)),
    "min_p of all": (MinPSampler, {"p": 0.0}, lambda p: p),
    "typical": (TypicalSampler, {"p": 0.6}, lambda p: keep_typical(p, 0.6)),
    "typical, narrow": (TypicalSampler, {"p": 0.1}, lambda p: keep_typical(p, 0.1)),
    "typical of all": (TypicalSampler, {"p": 1.0}, lambda p: p),
    "chain": (
        Sampler,
        {"top_k": 8, "top_p": 0.95, "min_p": 0.05, "typical_p": 0.8},
        lambda p: keep_typical(keep_min_p(keep_top_p(keep_top_k(p, 8), 0.95), 0.05), 0.8),
    ),
}


@pytest.mark.parametrize(
    "case, temperature",
    once_but([("random", 1.0), *((c, 0.7) for c in CASES)], ("random", 1.0), ("chain", 0.7)),
)
def test_draws_have_the_probabilities_of_the_kept_tokens(case, temperature):
    stats = pytest.importorskip("scipy.stats")
    (made, arguments, keep), rows = CASES[case], 20_000
    counts = np.bincount(
        drawn(made(temperature=temperature, **arguments), logits(rows)), minlength=WIDTH
    )
    expected = keep(softmax(logits()[0] / temperature))
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
    likely, ids = most_likely(ops.convert_to_tensor(probabilities), k)
    kept, _ = leading(likely, ids, Truncation(top_p=p))
    ours = ops.convert_to_numpy(kept > 0).sum(-1)
    assert (ours == seen[0]).all()
    assert (ours >= 1).all()


@pytest.mark.parametrize(
    "name, number",
    [("typical_p", 0.2), ("typical_p", 0.7), ("typical_p", 0.95), ("min_p", 0.1), ("top_k", 7)],
)
def test_kept_sets_are_those_of_transformers(name, number):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    process = {
        "typical_p": transformers.TypicalLogitsWarper,
        "min_p": transformers.MinPLogitsWarper,
        "top_k": transformers.TopKLogitsWarper,
    }[name](number)
    rows = different_logits(40, width=50)
    expected = np.isfinite(process(None, torch.tensor(rows)).numpy())
    cut = Truncation(**{name: number})
    likely = most_likely(ops.softmax(ops.convert_to_tensor(rows)), None)
    kept, ids = map(ops.convert_to_numpy, kept_typical(*leading(*likely, cut), cut))
    ours = np.zeros_like(expected)
    np.put_along_axis(ours, ids.astype("int64"), kept > 0, axis=1)
    assert (ours == expected).all()


# Few candidates first is the same as the whole vocabulary in order: some of these end within the
# first 16 of 300, others don't.
@pytest.mark.parametrize("scale", [0.3, 6.0])
@pytest.mark.parametrize(
    "cut",
    once_but(
        [
            {"top_k": 40},
            {"top_p": 0.3},
            {"top_p": 0.999999},
            {"top_p": 0.8, "min_p": 0.02},
            {"typical_p": 0.3},
            {"typical_p": 0.95},
            {"typical_p": 0.9, "min_p": 0.01},
            {"typical_p": 0.7, "top_k": 10},
            {"top_k": 20, "top_p": 0.9, "min_p": 0.01, "typical_p": 0.8},
        ],
        {"top_p": 0.999999},
        {"top_k": 20, "top_p": 0.9, "min_p": 0.01, "typical_p": 0.8},
    ),
    ids=str,
)
def test_few_candidates_are_drawn_from_as_if_all_were_sorted(cut, scale):
    few, all_at_once = Sampler(**cut), Sampler(**cut)
    few.candidates, all_at_once.candidates = 16, None
    rows = different_logits(60, width=300, scale=scale)
    assert drawn(few, rows).tolist() == drawn(all_at_once, rows).tolist()


@pytest.mark.once
@pytest.mark.parametrize(
    "sampler, scale, sorts",
    [
        (RandomSampler(), 0.5, []),
        (MinPSampler(0.1), 0.5, []),
        (TopKSampler(40), 0.5, [40]),
        (TopPSampler(0.9), 6.0, [1024]),
        (TopPSampler(0.9), 0.5, [1024, 5000]),
        (TypicalSampler(0.9), 6.0, [1024]),
        (TypicalSampler(0.9), 0.5, [1024, 5000]),
        (Sampler(temperature=[1.0, 2.0, 0.0]), 0.5, []),
        (Sampler(top_p=[1.0, 1.0, 1.0]), 0.5, [1024]),
        (Sampler(top_p=[1.0, 0.5, 0.5]), 6.0, [1024]),
        (Sampler(top_p=[1.0, 0.5, 0.5]), 0.5, [1024, 5000]),
        (Sampler(top_k=[5000, 9, 9], min_p=[0.1, 0.0, 0.0]), 0.5, [1024]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Sampler) else str(value),
)
def test_the_vocabulary_is_sorted_only_where_few_tokens_do_not_hold_enough(
    sampler, scale, sorts, monkeypatch
):
    if keras.config.backend() != "torch":
        pytest.skip("both sides of a condition are traced")
    seen = []

    def likely(probabilities, k):
        seen.append(k)
        return most_likely(probabilities, k)

    monkeypatch.setattr("keras_gemma.samplers.truncation.most_likely", likely)
    drawn(sampler, different_logits(3, width=5000, scale=scale))
    assert seen == sorts


@pytest.mark.parametrize("cut", [{"p": 0.3}, {"p": 0.999999}])
def test_a_large_vocabulary_is_drawn_from_as_if_sorted(cut):
    # At 0.999999 the first 1024 tokens hold less, and the whole vocabulary is sorted.
    flat = logits(8, width=5000)
    assert (
        drawn(TopPSampler(**cut), flat).tolist() == drawn(TopPSampler(k=5000, **cut), flat).tolist()
    )
    kept = keep_top_p(softmax(flat[0]), cut["p"])
    assert (kept[drawn(TopPSampler(**cut), np.repeat(flat, 50, axis=0))] > 0).all()


def test_what_is_banned_is_not_drawn_where_nothing_else_is_likely():
    rows = np.full((200, 2000), -np.inf, "float32")
    rows[:, [3, 1900]] = 0.0
    for sampler in (TopPSampler(0.99), TypicalSampler(0.9), Sampler(), MinPSampler(0.0)):
        assert set(drawn(sampler, rows, context(200)).tolist()) == {3, 1900}
