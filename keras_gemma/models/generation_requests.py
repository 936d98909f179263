"""What people ask of `generate`, checked, as requests to the engine."""

import operator
import random
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_gemma.generation import Request, end_ids
from keras_gemma.samplers import row_seeds


def requests_for(
    model: Any,
    prompts: list[list[int]],
    max_length: int | None = None,
    max_new_tokens: int | None = None,
    stop_token_ids: Any = "auto",
    seed: Any = None,
    constraint: Any = None,
) -> list[Request]:
    """One request for each prompt of ids; arguments are those of `GemmaCausalLM.generate`."""
    limits = _limits(model, prompts, max_length, max_new_tokens)
    for prompt in prompts:
        check_vocabulary(model, prompt)
    stop_ids = frozenset(_stop_ids(model, stop_token_ids))
    seeds = _seeds(model, seed, len(prompts))
    matchers = _matchers(model, constraint, len(prompts))
    return [
        Request(prompt, limit, stop_ids, row_seed, matcher=matcher)
        for prompt, limit, row_seed, matcher in zip(prompts, limits, seeds, matchers)
    ]


def _limits(model, prompts, max_length, max_new_tokens):
    max_length = _count("max_length", max_length, 1)
    max_new_tokens = _count("max_new_tokens", max_new_tokens, 0)
    if max_length is None and max_new_tokens is None:
        if model.preprocessor is None:
            raise ValueError(
                "How long a text may get is unknown: pass max_length or max_new_tokens, or "
                "attach a preprocessor, which has a sequence_length."
            )
        max_length = model.preprocessor.sequence_length
    limits = []
    for prompt in prompts:
        if not prompt:
            raise ValueError("A prompt has no token; it needs one at least, `<bos>` say.")
        if max_length is not None and len(prompt) > max_length:
            raise ValueError(
                f"A prompt of {len(prompt)} tokens does not fit max_length={max_length}. "
                "Raise max_length, or shorten the prompt."
            )
        longest = len(prompt) + max_new_tokens if max_new_tokens is not None else max_length
        limits.append(longest if max_length is None else min(longest, max_length))
        _check_context(model, limits[-1], len(prompt))
    return limits


def _check_context(model, limit, given):
    context = model.context_length
    if limit > context:
        raise ValueError(
            f"A text of {limit:,} tokens was asked for, {given:,} of them the prompt's, and this "
            f"model is for texts of {context:,}: {max(0, context - given):,} new tokens fit. Lower "
            "max_new_tokens or max_length; or set model.context_length if it can do more."
        )


def check_vocabulary(model: Any, prompt: Sequence[int]) -> None:
    """An error for the first id that the model has no embedding of."""
    size = model.backbone.config.vocabulary_size
    for token in prompt:
        if not 0 <= token < size:
            raise ValueError(f"Id {token} is outside the vocabulary of {size}: 0 to {size - 1}.")


def _stop_ids(model, stop_token_ids):
    if stop_token_ids is None:
        return set()
    if isinstance(stop_token_ids, str):
        if stop_token_ids != "auto":
            raise ValueError(f'stop_token_ids must be "auto", None or ids, not {stop_token_ids!r}.')
        return end_ids(tokenizer_of(model, 'stop_token_ids="auto"'))
    return {operator.index(token) for token in stop_token_ids}


def _seeds(model, seed, rows):
    if isinstance(seed, Sequence):
        if len(seed) != rows:
            raise ValueError(f"{len(seed)} seeds for {rows} prompts: give each its own, or one.")
        return [operator.index(one) & 0x7FFFFFFF for one in seed]
    if seed is None:
        seed = getattr(model.sampler, "seed", None)
    if isinstance(seed, keras.random.SeedGenerator):
        seed = seed.next()[1]
    if seed is None:  # as Keras draws its own: follows keras.utils.set_random_seed
        seed = random.getrandbits(31)
    return row_seeds(int(ops.convert_to_numpy(seed)) & 0x7FFFFFFF, rows)


def _matchers(model, constraint, rows):
    if constraint is None:
        return [None] * rows
    tokenizer = tokenizer_of(model, "A constraint")
    size = model.backbone.config.vocabulary_size
    return [constraint.matcher(tokenizer, vocabulary_size=size) for _ in range(rows)]


def tokenizer_of(model: Any, use: str) -> Any:
    """The model's tokenizer, or an error that says what `use` needs it for."""
    if model.preprocessor is None:
        raise ValueError(
            f"{use} needs a preprocessor, and this model has none (preprocessor=None). Attach "
            "one, or work with ids: inputs={'token_ids', 'padding_mask'} and stop_token_ids."
        )
    return model.preprocessor.tokenizer


def _count(name, value, least):
    if value is None:
        return None
    try:
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, not {value!r}.") from None
    if count < least:
        raise ValueError(f"{name} must be at least {least}, not {count}.")
    return count
