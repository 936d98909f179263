"""Beam and contrastive search: what they are told. They compare texts, so `generate` runs them."""

import copy
from typing import Any

import keras
import numpy as np

from keras_gemma.samplers.base import Sampler
from keras_gemma.samplers.context import SamplingContext, given
from keras_gemma.samplers.named import refuse_cuts
from keras_gemma.samplers.options import NUMBERS, checked_count, is_number
from keras_gemma.samplers.steps import are_numbers


class SearchSampler(Sampler):
    """A way to choose that looks at more than the next token of each text."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        refuse_cuts(self)

    def distribution(self, logits, context: SamplingContext):
        """Of the next token: float32 (rows, vocabulary), and whether it is one, bool (rows,).

        It is none where a step of a user's made logits that nothing can be chosen from.
        """
        logits = self.adjusted(logits, context)
        with given(context):
            return self.compute_probabilities(logits), are_numbers(logits)

    def repeated(self, count: int) -> "SearchSampler":
        """The same for `count` rows in place of each; it shares all but its lists of numbers."""
        made = copy.copy(self)
        for name in NUMBERS:
            value = getattr(self, name)
            if isinstance(value, np.ndarray):
                setattr(made, name, np.repeat(value, count))
        bias = self.token_rules.bias
        if len(bias) > 1:
            made.token_rules = self.token_rules._replace(bias=np.repeat(bias, count, axis=0))
        return made

    def get_next_token(self, probabilities):
        raise NotImplementedError(
            f"{type(self).__name__} compares texts and can't choose one token alone: give it to "
            "compile(sampler=...) and call generate, which runs it."
        )


@keras.saving.register_keras_serializable(package="keras_gemma")
class BeamSampler(SearchSampler):
    """The likeliest of the texts that keeping several at each step finds.

    A text that met a token to stop at is kept as it is, while others may still become likelier; a
    shorter one has an advantage, for nothing is divided by the length. `generate` ends when the
    likeliest has stopped, for no other can pass it then.

    Args:
        num_beams: texts that are kept at each step.
        return_all_beams: let `generate` return all of them, likeliest first, and their
            log-probabilities; it goes on until all have stopped. One that can't be, since too
            few tokens may come, is left out of strings, and is minus infinity among arrays.
        **kwargs: options of `Sampler` that change logits.

    Raises:
        ValueError: `num_beams` is not a whole number of at least 1.
        TypeError: `return_all_beams` is not true or false.

    >>> BeamSampler(3).get_config()
    {'temperature': 1.0, 'num_beams': 3, 'return_all_beams': False}
    """

    def __init__(self, num_beams: int = 5, return_all_beams: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        if not isinstance(return_all_beams, bool):
            raise TypeError(f"return_all_beams must be True or False, not {return_all_beams!r}.")
        self.num_beams = checked_count("num_beams", num_beams)
        self.return_all_beams = return_all_beams

    def get_config(self):
        beams = {"num_beams": self.num_beams, "return_all_beams": self.return_all_beams}
        return {**super().get_config(), **beams}


@keras.saving.register_keras_serializable(package="keras_gemma")
class ContrastiveSampler(SearchSampler):
    """The likely token that is least like what the text has (arXiv 2202.06417).

    Of the `k` likeliest, the one with the largest `(1 - alpha) * probability - alpha * similarity`,
    where similarity is the largest cosine between its hidden state and those of the text, the
    prompt included. A token of probability 0, a banned one say, is never taken.

    Args:
        k: tokens that are compared; more than the vocabulary holds means all.
        alpha: how much the similarity counts, from 0 (greedy) to 1.
        **kwargs: options of `Sampler` that change logits.

    Raises:
        ValueError: `k` is not a whole number of at least 1, `alpha` is outside [0, 1].

    >>> ContrastiveSampler().get_config()
    {'temperature': 1.0, 'k': 5, 'alpha': 0.6}
    """

    def __init__(self, k: int = 5, alpha: float = 0.6, **kwargs: Any):
        super().__init__(**kwargs)
        if not (is_number(alpha) and 0 <= alpha <= 1):
            raise ValueError(f"alpha must be in [0, 1], not {alpha!r}.")
        self.k, self.alpha = checked_count("k", k), alpha

    def get_config(self):
        return {**super().get_config(), "k": self.k, "alpha": self.alpha}
