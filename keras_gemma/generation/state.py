"""What is asked of the engine, and all that changes while it works on it.

B batch, L longest text (bucketed), V vocabulary, n alternatives.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from keras import ops


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
        return place(ops.convert_to_tensor(x))

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
    bits = [None if matcher is None else matcher.allowed() for matcher in matchers]
    width = next(len(row) for row in bits if row is not None)
    rows = np.full((len(bits), width), -1, "int32")
    for row, found in zip(rows, bits):
        if found is not None:
            row[:] = found
    return array(rows)


def bucket(length: int) -> int:
    """The next length that programs are compiled for: powers of two, then steps of 256.

    >>> [bucket(n) for n in (1, 17, 1000, 1025)]
    [16, 32, 1024, 1280]
    """
    if length > 1024:
        return -(-length // 256) * 256
    return max(16, 1 << (length - 1).bit_length())


def numpy(x: Any) -> np.ndarray:
    """An array of the backend, on the host."""
    return np.asarray(ops.convert_to_numpy(x))
