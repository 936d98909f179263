"""Greedy, random, top-k and top-p: positional order and defaults are KerasHub's."""

from typing import Any

import keras
from keras import ops

from keras_gemma.samplers.base import Sampler
from keras_gemma.samplers.steps import drop_tail, most_likely

# Candidates that are looked at first: they hold `p` nearly always, and sorting 256,000 tokens
# takes 120 ms where finding these takes 4 (two CPU cores, JAX).
_FEW = 1024


@keras.saving.register_keras_serializable(package="keras_gemma")
class GreedySampler(Sampler):
    """The likeliest token, always.

    >>> GreedySampler().get_config()
    {'temperature': 1.0}
    """

    def __call__(self, logits, context):
        # Equal to the longer way, without a softmax that could round two logits to one value. A
        # subclass goes the longer way, for it may override any part of it.
        if type(self) is not GreedySampler:
            return super().__call__(logits, context)
        return ops.cast(ops.argmax(self.adjusted(logits, context), axis=-1), "int32")

    def get_next_token(self, probabilities):
        return ops.argmax(probabilities, axis=-1)


class _SeededSampler(Sampler):
    """A sampler that draws.

    `seed` decides the text when `generate` is given none of its own; with `None` there, too, the
    draw follows `keras.utils.set_random_seed`. `seed_generator` serves calls by hand.
    """

    def __init__(self, seed: int | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def get_config(self):
        return {**super().get_config(), "seed": self.seed}


@keras.saving.register_keras_serializable(package="keras_gemma")
class RandomSampler(_SeededSampler):
    """Any token, with its probability.

    Args:
        seed: of the draws.
        **kwargs: `temperature`, `repetition_penalty`: see `Sampler`.
    """

    def get_next_token(self, probabilities):
        return self.draw(probabilities)


@keras.saving.register_keras_serializable(package="keras_gemma")
class TopKSampler(_SeededSampler):
    """One of the `k` likeliest tokens, with its probability among them.

    Args:
        k: how many; more than the vocabulary holds means all.
        seed: of the draws.
        **kwargs: `temperature`, `repetition_penalty`: see `Sampler`.

    Raises:
        ValueError: `k` is not a whole number of at least 1.
    """

    def __init__(self, k: int = 5, seed: int | None = None, **kwargs: Any):
        super().__init__(seed, **kwargs)
        self.k = _checked_k(k)

    def get_next_token(self, probabilities):
        return self.draw(*most_likely(probabilities, self.k))

    def get_config(self):
        return {**super().get_config(), "k": self.k}


@keras.saving.register_keras_serializable(package="keras_gemma")
class TopPSampler(_SeededSampler):
    """One of the fewest tokens that together hold more than `p`, with its probability among them.

    Args:
        p: the share they must hold, from 0 (the likeliest only) to 1 (all).
        k: consider the `k` likeliest only, which saves sorting the vocabulary.
        seed: of the draws.
        **kwargs: `temperature`, `repetition_penalty`: see `Sampler`.

    Raises:
        ValueError: `p` outside [0, 1], `k` not a whole number of at least 1.
    """

    def __init__(
        self, p: float = 0.1, k: int | None = None, seed: int | None = None, **kwargs: Any
    ):
        super().__init__(seed, **kwargs)
        if not 0 <= p <= 1:
            raise ValueError(f"p must be in [0, 1], not {p!r}.")
        self.p, self.k = p, None if k is None else _checked_k(k)

    def get_next_token(self, probabilities):
        rows, width = ops.shape(probabilities)
        k = min(self.k or width, width)
        if self.p >= 1 and k == width:  # nothing to drop, nothing to sort
            return self.draw(probabilities)
        keys = self.keys(rows)

        def drawn_from(likely, ids):
            return ops.cast(self.draw(drop_tail(likely, self.p), ids, keys), "int32")

        if k <= _FEW or self.p >= 1:
            return drawn_from(*most_likely(probabilities, k))
        few = most_likely(probabilities, _FEW)
        return ops.cond(
            ops.all(ops.sum(few[0], axis=-1) > self.p),
            lambda: drawn_from(*few),
            lambda: drawn_from(*most_likely(probabilities, k)),
        )

    def get_config(self):
        return {**super().get_config(), "p": self.p, "k": self.k}


def _checked_k(k):
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(f"k must be a whole number of at least 1, not {k!r}.")
    return k
