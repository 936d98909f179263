"""What `generate` returns where a sampler says to return all beams.

B prompts, K beams, W width.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_gemma.generation import Beam


class ScoredText(NamedTuple):
    """One of the texts that a beam search ended with."""

    text: str
    log_prob: float  # of what was made, in nats; text after a stop string counts, too


def beam_texts(
    heads: Sequence[str], beams: Sequence[Sequence[Beam]], decode: Callable[[list[int]], str]
) -> list[list[ScoredText]]:
    """The beams of each prompt as texts that begin with its head, likeliest first."""
    return [
        [ScoredText(head + decode(beam.new_ids), beam.log_prob) for beam in some]
        for head, some in zip(heads, beams)
    ]


def beam_arrays(
    heads: Sequence[list[int]], beams: Sequence[Sequence[Beam]], count: int, width: int
) -> dict[str, Any]:
    """`token_ids` and `padding_mask` BKW, `log_probs` BK: minus infinity where there is no beam.

    >>> beam_arrays([[5]], [[Beam([7], -0.5)]], 1, 3)["token_ids"].tolist()
    [[[5, 7, 0]]]
    """
    shape = len(heads), count, width
    token_ids, mask = np.zeros(shape, "int32"), np.zeros(shape, "bool")
    log_probs = np.full(shape[:2], -np.inf, "float32")
    for row, (head, some) in enumerate(zip(heads, beams)):
        for place, beam in enumerate(some):
            ids = [*head, *beam.new_ids]
            token_ids[row, place, : len(ids)], mask[row, place, : len(ids)] = ids, True
            log_probs[row, place] = beam.log_prob
    return {"token_ids": token_ids, "padding_mask": mask, "log_probs": log_probs}
