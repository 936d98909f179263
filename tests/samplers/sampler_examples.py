"""Logits, contexts and draws that the tests of samplers share."""

import keras
import numpy as np
from keras import ops

from keras_gemma.samplers import SamplingContext

WIDTH = 12


def context(rows, length=4, seeds=None, ids=None, prompt=1, settings=None):
    """Texts of `length` tokens, `prompt` of which were given."""
    ids = np.tile(np.arange(length, dtype="int32"), (rows, 1)) if ids is None else ids
    seeds = np.arange(rows) if seeds is None else np.array(seeds)
    return SamplingContext(
        ops.convert_to_tensor(np.asarray(ids, "int32")),
        ops.full((rows,), length, "int32"),
        ops.convert_to_tensor(seeds.astype("int32")),
        ops.full((rows,), prompt, "int32"),
        {name: ops.convert_to_tensor(value) for name, value in (settings or {}).items()},
    )


def logits(rows=1, seed=0, width=WIDTH, scale=1.5):
    """The same random logits in every row."""
    one = np.random.default_rng(seed).normal(0, scale, (1, width)).astype("float32")
    return np.repeat(one, rows, axis=0)


def different_logits(rows, seed=1, width=WIDTH, scale=2.0):
    """Random logits, others in each row."""
    return np.random.default_rng(seed).normal(0, scale, (rows, width)).astype("float32")


def drawn(sampler, logits_BV, given=None):
    """One token of each row, as an array."""
    given = given or context(len(logits_BV))
    return ops.convert_to_numpy(sampler(ops.convert_to_tensor(logits_BV), given))


def adjusted(sampler, logits_BV, given):
    """The logits as the sampler changes them before the temperature."""
    return keras.ops.convert_to_numpy(sampler.adjusted(ops.convert_to_tensor(logits_BV), given))


def softmax(x):
    """In float64."""
    x = np.exp(np.asarray(x, "float64") - np.max(x))
    return x / x.sum()


# --- the cuts, from their papers: a distribution to one that is zero where a token is dropped ---


def keep_top_k(p, k):
    """The k largest."""
    return np.where(p >= np.sort(p)[-min(k, len(p))], p, 0)


def keep_top_p(p, share):
    """KerasHub's nucleus: in order of size, while those before hold no more than `share`."""
    kept, before = np.zeros_like(p), 0.0
    for token in np.argsort(-p, kind="stable"):
        if before > share:
            break
        kept[token] = p[token]
        before += p[token]
    return kept


def keep_min_p(p, share):
    """arXiv 2407.01082, definition of p_scaled."""
    return np.where(p >= share * p.max(), p, 0)


def keep_typical(p, share):
    """arXiv 2202.00666, equation 10, of the distribution scaled to one."""
    q = p / p.sum()
    surprise = -np.log(np.where(q > 0, q, 1))
    entropy = (q * surprise).sum()
    kept, held = np.zeros_like(p), 0.0
    for token in sorted(np.flatnonzero(q), key=lambda t: abs(surprise[t] - entropy)):
        kept[token] = p[token]
        held += q[token]
        if held >= share:
            break
    return kept
