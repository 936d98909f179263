"""Prompts of unlike length, as arrays that are read in chunks."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_gemma.generation.state import bucket, tensor


def chunks_of(
    prompts: Sequence[Sequence[int]], known: int, size: int, place=lambda x: x
) -> list[list[Any]]:
    """Ids, places and segments of prompts, from place `known` on, in chunks.

    Shorter prompts are filled up on the left, so that all of them end in the last chunk.
    """
    longest = max(map(len, prompts))
    whole = (longest - 1) // size
    width = whole * size + min(size, bucket(longest - whole * size))
    arrays = np.zeros((3, len(prompts), width), "int32")
    for row, prompt in enumerate(prompts):
        part = slice(width - len(prompt), None)
        arrays[0, row, part] = prompt
        arrays[1, row, part] = range(known, known + len(prompt))
        arrays[2, row, part] = 1
    edges = [*range(0, whole * size + 1, size), width]
    return [
        [place(tensor(array)) for array in arrays[:, :, start:end]]
        for start, end in itertools.pairwise(edges)
    ]


def last_tokens(
    token_ids_BL: np.ndarray, lengths_B: np.ndarray, count_B: np.ndarray, width: int
) -> np.ndarray:
    """Ids, places and segments, int32 `(3, B, width)`, of the last tokens of each text.

    >>> last_tokens(np.array([[5, 6, 7, 0]]), np.array([3]), np.array([2]), 3)[:2].tolist()
    [[[0, 6, 7]], [[0, 1, 2]]]
    """
    made = np.zeros((3, len(lengths_B), width), "int32")
    for row, (length, count) in enumerate(zip(lengths_B, count_B)):
        part = slice(width - count, None)
        made[0, row, part] = token_ids_BL[row, length - count : length]
        made[1, row, part] = range(length - count, length)
        made[2, row, part] = 1
    return made


def common_prefix(prompts: Sequence[Sequence[int]], all_of_it: bool = False) -> list[int]:
    """The ids with which all prompts begin, but at most all but one of the shortest's.

    That last one has to be read by each, for what comes after it.

    >>> common_prefix([[1, 2, 3], [1, 2, 3, 4]]), common_prefix([[1, 2, 3]], all_of_it=True)
    ([1, 2], [1, 2, 3])
    """
    shortest = min(map(len, prompts))
    for place in range(shortest):
        if len({prompt[place] for prompt in prompts}) > 1:
            return list(prompts[0][:place])
    return list(prompts[0][: shortest if all_of_it else shortest - 1])
