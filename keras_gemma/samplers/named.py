"""Samplers by name, each a chain with one cut; order and defaults of arguments are KerasHub's."""

from typing import Any, ClassVar

import keras

from keras_gemma.compilers import argmax
from keras_gemma.samplers.base import Sampler
from keras_gemma.samplers.truncation import Truncation


def refuse_cuts(sampler: Sampler) -> None:
    """Raise a ValueError if a sampler that doesn't draw was told what to draw from."""
    for name in Truncation._fields:
        if getattr(sampler, name) is not None:
            raise ValueError(
                f"{type(sampler).__name__} draws nothing, so {name} would do nothing: leave it out."
            )


@keras.saving.register_keras_serializable(package="keras_gemma")
class GreedySampler(Sampler):
    """The likeliest token, always.

    >>> GreedySampler().get_config()
    {'temperature': 1.0}
    """

    def __init__(self, temperature: Any = 1.0, **kwargs: Any):
        super().__init__(temperature, **kwargs)
        refuse_cuts(self)

    def takes_likeliest(self):
        # Without a softmax, which could round two logits to one value. A subclass goes the longer
        # way, for it may override any part of it.
        return type(self) is GreedySampler or super().takes_likeliest()

    def get_next_token(self, probabilities):
        return argmax(probabilities)


class _SeededSampler(Sampler):
    """A sampler of KerasHub's that draws: `seed` is always in its configuration."""

    def __init__(self, seed: int | None = None, **kwargs: Any):
        super().__init__(seed=seed, **kwargs)
        if seed is None:
            self.seed_generator = keras.random.SeedGenerator()

    def get_config(self):
        return {**super().get_config(), "seed": self.seed}


@keras.saving.register_keras_serializable(package="keras_gemma")
class RandomSampler(_SeededSampler):
    """Any token, with its probability.

    Args:
        seed: of the draws.
        **kwargs: other options of `Sampler`.
    """


@keras.saving.register_keras_serializable(package="keras_gemma")
class TopKSampler(_SeededSampler):
    """One of the `k` likeliest tokens, with its probability among them.

    Args:
        k: how many; more than the vocabulary holds means all.
        seed: of the draws.
        **kwargs: other options of `Sampler`.

    Raises:
        ValueError: `k` is not a whole number of at least 1.
    """

    _spelling: ClassVar = {"top_k": "k"}

    def __init__(self, k: Any = 5, seed: int | None = None, **kwargs: Any):
        super().__init__(seed, top_k=k, **kwargs)

    @property
    def k(self):
        """How many; `None` is all."""
        return self.top_k


@keras.saving.register_keras_serializable(package="keras_gemma")
class TopPSampler(_SeededSampler):
    """One of the fewest tokens that together hold more than `p`, with its probability among them.

    Args:
        p: the share they must hold, from 0 (the likeliest only) to 1 (all).
        k: consider the `k` likeliest only.
        seed: of the draws.
        **kwargs: other options of `Sampler`.

    Raises:
        ValueError: `p` outside [0, 1], `k` not a whole number of at least 1.
    """

    _spelling: ClassVar = {"top_p": "p", "top_k": "k"}

    def __init__(self, p: Any = 0.1, k: Any = None, seed: int | None = None, **kwargs: Any):
        super().__init__(seed, top_p=p, top_k=k, **kwargs)

    @property
    def p(self):
        """The share they must hold."""
        return self.top_p

    @property
    def k(self):
        """How many are considered; `None` is all."""
        return self.top_k


@keras.saving.register_keras_serializable(package="keras_gemma")
class MinPSampler(_SeededSampler):
    """One of the tokens that have at least `p` of the likeliest one's probability.

    Where the model is sure, few are left; where it isn't, many (arXiv 2407.01082).

    Args:
        p: the share of the likeliest one's probability, from 0 (all) to 1 (the likeliest only).
        seed: of the draws.
        **kwargs: other options of `Sampler`.

    Raises:
        ValueError: `p` outside [0, 1].
    """

    _spelling: ClassVar = {"min_p": "p"}

    def __init__(self, p: Any = 0.05, seed: int | None = None, **kwargs: Any):
        super().__init__(seed, min_p=p, **kwargs)

    @property
    def p(self):
        """The share of the likeliest one's probability."""
        return self.min_p


@keras.saving.register_keras_serializable(package="keras_gemma")
class TypicalSampler(_SeededSampler):
    """One of the tokens that say about as much as a next word does (arXiv 2202.00666).

    Tokens whose surprise, minus the log-probability, is nearest to the entropy come first, until
    they hold `p`. Neither the likeliest nor the unlikeliest need be among them.

    Args:
        p: the share they must hold, above 0, at most 1 (all).
        seed: of the draws.
        **kwargs: other options of `Sampler`.

    Raises:
        ValueError: `p` is not above 0 and at most 1.
    """

    _spelling: ClassVar = {"typical_p": "p"}

    def __init__(self, p: Any = 0.95, seed: int | None = None, **kwargs: Any):
        super().__init__(seed, typical_p=p, **kwargs)

    @property
    def p(self):
        """The share they must hold."""
        return self.typical_p
