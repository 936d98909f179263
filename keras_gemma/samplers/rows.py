"""One sampler for a batch whose rows sample each in its own way."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_gemma.samplers.base import Sampler
from keras_gemma.samplers.named import (
    GreedySampler,
    MinPSampler,
    RandomSampler,
    TopKSampler,
    TopPSampler,
    TypicalSampler,
)
from keras_gemma.samplers.options import NUMBERS, is_neutral

_CHAINS = (
    Sampler,
    GreedySampler,
    RandomSampler,
    TopKSampler,
    TopPSampler,
    MinPSampler,
    TypicalSampler,
)


def settings_of(sampler: Any) -> dict[str, float]:
    """The numbers of one sampler, for a row of a batch whose sampler is a plain `Sampler()`.

    Raises:
        ValueError: a sampler of a class of one's own; one with `steps`, `logit_bias`,
            `banned_tokens`, `forced_tokens` or lists of numbers.

    >>> settings_of(GreedySampler())["temperature"], settings_of(TopPSampler(0.5))["top_p"]
    (0.0, 0.5)
    """
    if len(sampler.token_rules.ids):
        raise ValueError(
            "A sampler with logit_bias or banned_tokens shares a program through row_settings(..., "
            "vocabulary_size)."
        )
    return _numbers(sampler)


def row_settings(
    samplers: Sequence[Sampler], vocabulary_size: int | None = None
) -> dict[str, np.ndarray]:
    """The numbers of one sampler per row, for `SamplingContext.settings`.

    With these a plain `Sampler()` draws for each row what that row's sampler would: its program
    holds all steps that have numbers, and the numbers are data, so that one program serves
    whoever comes. `GreedySampler` is temperature 0. Seeds are the context's.

    Args:
        samplers: one per row, of the classes of this package that draw token by token.
        vocabulary_size: adds `"logit_bias"`, float32 (rows, vocabulary), with biases and bans.

    Returns:
        Name to float32 (rows,).

    Raises:
        ValueError: a sampler of a class of one's own; one with `steps`, `forced_tokens` or lists of
            numbers; one with `logit_bias` or `banned_tokens`, and no `vocabulary_size`.

    >>> rows = row_settings([GreedySampler(), TopPSampler(0.5, temperature=0.25)])
    >>> rows["temperature"].tolist(), rows["top_p"].tolist()
    ([0.0, 0.25], [1.0, 0.5])
    """
    read = settings_of if vocabulary_size is None else _numbers
    numbers = [read(sampler) for sampler in samplers]
    settings = {name: np.array([row[name] for row in numbers], "float32") for name in NUMBERS}
    if vocabulary_size is None:
        return settings
    bias = np.zeros((len(samplers), vocabulary_size), "float32")
    for row, sampler in zip(bias, samplers):
        sampler.token_rules.check(vocabulary_size)
        row[sampler.token_rules.ids] = sampler.token_rules.bias[0]
    return {**settings, "logit_bias": bias}


def _numbers(sampler):
    if type(sampler) not in _CHAINS:
        raise ValueError(
            f"{type(sampler).__name__} can't share a program with other samplers: its rule is not "
            f"made of numbers. There are {', '.join(chain.__name__ for chain in _CHAINS)}."
        )
    numbers = {name: getattr(sampler, name) for name in NUMBERS}
    fixed = [name for name, value in numbers.items() if isinstance(value, np.ndarray)]
    fixed += ["logit_bias"] if len(sampler.token_rules.bias) > 1 else []
    fixed += [name for name in ("steps", "forced_tokens") if getattr(sampler, name)]
    if fixed:
        raise ValueError(
            f"A sampler with {fixed[0]} can't share a program with other samplers: only single "
            "numbers, biases and bans can differ by row."
        )
    if isinstance(sampler, GreedySampler):
        numbers["temperature"] = 0.0
    return {
        name: NUMBERS[name].neutral if is_neutral(name, value) else value
        for name, value in numbers.items()
    }
