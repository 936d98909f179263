"""What is asked of the engine, and all that changes while it works on it.

B batch, L longest text (bucketed), V vocabulary, n alternatives.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_gemma.samplers import NO_TOKEN


class Request(NamedTuple):
    """One text to be made."""

    prompt: Sequence[int]
    limit: int  # the length at which it stops, prompt included
    stop_ids: frozenset[int] = frozenset()
    seed: int = 0
    settings: Mapping[str, float] = {}  # numbers of the sampler, for this text alone
    matcher: Any = None  # says which token may come next: see keras_gemma.constraints


class TokenRecords(NamedTuple):
    """What the model thought of each token that was made, at the token's place."""

    log_probs: Any  # float32 BL
    top_ids: Any  # int32 BLn, the likeliest tokens there
    top_log_probs: Any  # float32 BLn


class GenerationState(NamedTuple):
    """One row per text. What isn't in use is the empty tuple."""

    token_ids: Any  # int32 BL, prompt and answer, padded on the right
    prompt_lengths: Any  # int32 B
    lengths: Any  # int32 B, how many of them are real
    running: Any  # bool B, false once a row has stopped
    caches: Any  # one per layer; they hold all tokens but the newest
    seeds: Any  # int32 B, of the sampler
    limits: Any  # int32 B, the length at which a row stops
    stops: Any  # int32 Bn, the ids that stop a row; -1 stands for none
    settings: Any  # name of a number of the sampler to float32 B
    allowed: Any  # int32 (B, V / 32), one bit for each token that may come next
    records: Any  # TokenRecords
    draft: Any  # what proposes tokens remembers
    steps: Any  # int32, steps still to be made before the program returns


def opening_state(
    requests: Sequence[Request],
    top: int | None,
    place=lambda x: x,
    length: int = 0,
    stops: int = 0,
) -> GenerationState:
    """The state before anything is read; `top` alternatives are recorded, `None` records nothing.

    `place` puts an array where it belongs, on devices say; `length` and `stops` are the least that
    texts and lists of ids to stop at have room for.
    """
    rows, length = len(requests), bucket(max(length, *(request.limit for request in requests)))
    token_ids = np.zeros((rows, length), "int32")
    for row, request in zip(token_ids, requests):
        row[: len(request.prompt)] = request.prompt
    lengths = np.array([len(request.prompt) for request in requests], "int32")
    limits = np.array([request.limit for request in requests], "int32")

    def array(x):
        return place(tensor(x))

    records: Any = ()
    if top is not None:
        shape = (rows, length, top)
        records = TokenRecords(
            array(np.zeros(shape[:2], "float32")),
            array(np.zeros(shape, "int32")),
            array(np.zeros(shape, "float32")),
        )
    names = sorted({name for request in requests for name in request.settings})
    return GenerationState(
        token_ids=array(token_ids),
        prompt_lengths=array(lengths),
        lengths=array(lengths),
        running=array(lengths < limits),
        caches=(),
        seeds=array(np.array([request.seed for request in requests], "int32")),
        limits=array(limits),
        stops=array(stop_rows([request.stop_ids for request in requests], stops)),
        settings={
            name: array(np.array([request.settings[name] for request in requests], "float32"))
            for name in names
        },
        allowed=allowed_rows(requests, array),
        records=records,
        draft=(),
        steps=array(np.array(0, "int32")),
    )


def stop_rows(stop_ids: Sequence[frozenset[int]], least: int = 0) -> np.ndarray:
    """A row for each set of ids, filled up with -1."""
    width = max(4, least, *map(len, stop_ids))
    rows = np.full((len(stop_ids), width), -1, "int32")
    for row, ids in zip(rows, stop_ids):
        row[: len(ids)] = sorted(ids)
    return rows


def allowed_rows(requests: Sequence[Request], array) -> Any:
    """What constraints allow next, as the step reads it: all bits for a row without one."""
    matchers = [request.matcher for request in requests]
    if not any(matchers):
        return ()
    words = [None if matcher is None else matcher.allowed() for matcher in matchers]
    width = next(len(row) for row in words if row is not None)
    rows = np.full((len(words), width), -1, "int32")
    for row, found in zip(rows, words):
        if found is not None:
            row[:] = found
    return array(rows)


def bits(words_BW: Any, width: int) -> Any:
    """bool BV: bit v % 32 of word v // 32."""
    bits_BW32 = ops.right_shift(words_BW[..., None], ops.arange(32, dtype="int32")) & 1
    return ops.reshape(bits_BW32, (words_BW.shape[0], -1))[:, :width] > 0


class Grown(NamedTuple):
    """Texts with a token more, those of them that were going."""

    token_ids: Any  # int32 BL
    lengths: Any  # int32 B
    going: Any  # bool B, those that have not stopped now
    here: Any  # bool BL, where the new token stands


def with_token(
    token_ids_BL: Any, lengths_B: Any, going_B: Any, chosen_B: Any, stops_Bn: Any, limits_B: Any
) -> Grown:
    """A text's next token put in its place, and whether it ends the text.

    >>> grown = with_token(*map(ops.array, ([[5, 0]], [1], [True], [7], [[7]], [2])))
    >>> ops.convert_to_numpy(grown.token_ids).tolist(), ops.convert_to_numpy(grown.going).tolist()
    ([[5, 7]], [False])
    """
    place_L = ops.arange(token_ids_BL.shape[1], dtype="int32")
    here_BL = ops.logical_and(place_L == lengths_B[:, None], going_B[:, None])
    lengths_B = lengths_B + ops.cast(going_B, "int32")
    ends_B = ops.any(ops.equal(chosen_B[:, None], stops_Bn), axis=-1)
    for reason in (lengths_B >= limits_B, ops.equal(chosen_B, NO_TOKEN)):
        ends_B = ops.logical_or(ends_B, reason)
    going_B = ops.logical_and(going_B, ops.logical_not(ends_B))
    token_ids_BL = ops.where(here_BL, chosen_B[:, None], token_ids_BL)
    return Grown(token_ids_BL, lengths_B, going_B, here_BL)


def recorded(records: TokenRecords, here_BL: Any, logits_BV: Any, chosen_B: Any) -> TokenRecords:
    """The records with what the model, whatever was then chosen from it, thought of a token."""
    logits_BV = ops.cast(logits_BV, "float32")
    log_probs_BV = logits_BV - ops.logsumexp(logits_BV, axis=-1, keepdims=True)
    of_chosen_B1 = ops.take_along_axis(log_probs_BV, chosen_B[:, None], axis=1)
    log_probs = ops.where(here_BL, of_chosen_B1, records.log_probs)
    if not (top := records.top_ids.shape[-1]):
        return records._replace(log_probs=log_probs)
    best, ids = ops.top_k(log_probs_BV, k=top)
    here_BL1 = here_BL[:, :, None]
    return TokenRecords(
        log_probs,
        ops.where(here_BL1, ops.cast(ids, "int32")[:, None], records.top_ids),
        ops.where(here_BL1, best[:, None], records.top_log_probs),
    )


def bucket(length: int) -> int:
    """The next length that programs are compiled for: powers of two, then steps of 256.

    >>> [bucket(n) for n in (1, 17, 1000, 1025)]
    [16, 32, 1024, 1280]
    """
    if length > 1024:
        return -(-length // 256) * 256
    return max(16, 1 << (length - 1).bit_length())


def tensor(x: np.ndarray) -> Any:
    """An array of the host, on the device, of the same dtype whatever Keras's `floatx` is.

    Left to choose, Keras makes floats of whole numbers where `floatx` is bfloat16, on JAX.
    """
    return ops.convert_to_tensor(x, x.dtype.name)


def numpy(x: Any) -> np.ndarray:
    """An array of the backend, on the host."""
    return np.asarray(ops.convert_to_numpy(x))
