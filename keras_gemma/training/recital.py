"""How much of its own data a model recites."""

import contextlib
import copy
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_gemma.models.fit_data import as_records
from keras_gemma.samplers import GreedySampler

_SHORTEST = 8  # tokens: a prompt of fewer says nothing
_NEAR = 0.1  # edits, as a share of the continuation, that count as recited approximately
_ROWS = 16  # texts that are continued together
_Z = 1.959964  # of a 95 % interval


class Recital(NamedTuple):
    """What came of a canary check; counts are of texts.

    >>> print(Recital(checked=200, exact=2, approximate=5, shortened=0, skipped=1))
    of 200 texts 2 are recited exactly (1.0 %, 95 % interval 0.3 to 3.6) and 5 within 10 % edits
    (2.5 %, 1.1 to 5.7); 1 shorter than 16 tokens left out
    """

    checked: int
    exact: int
    approximate: int  # the exact ones among them
    shortened: (
        int  # too short for the whole prompt and continuation: half and half of what there is
    )
    skipped: int

    def interval(self, count: int) -> tuple[float, float]:
        """Wilson's 95 % interval of the share that a count is."""
        n = max(self.checked, 1)
        share, spread = count / n, _Z**2 / n
        centre = share + spread / 2
        half = math.sqrt(spread * (share * (1 - share) + spread / 4))
        return max(0.0, (centre - half) / (1 + spread)), min(1.0, (centre + half) / (1 + spread))

    def __str__(self):
        def told(count, word):
            low, high = (100 * bound for bound in self.interval(count))
            return f"({100 * count / max(self.checked, 1):.1f} %, {word}{low:.1f} to {high:.1f})"

        text = (
            f"of {self.checked} texts {self.exact} are recited exactly "
            f"{told(self.exact, '95 % interval ')} and {self.approximate} within 10 % edits "
            f"{told(self.approximate, '')}"
        )
        if self.shortened:
            text += f"; {self.shortened} were short: half of each was the prompt"
        if self.skipped:
            text += f"; {self.skipped} shorter than {2 * _SHORTEST} tokens left out"
        return text


def canary(
    model: Any, texts: Any, prompt_tokens: int = 50, continuation_tokens: int = 50
) -> Recital:
    """Give a model the beginnings of texts it was trained on, and count which it goes on with.

    As in Gemma's report (arXiv 2403.08295, section 6.1): 50 tokens are the prompt, the likeliest 50
    that follow are compared with the text's own; exactly, and with at most 10 % of the tokens
    inserted, left out or changed. Of a text that is too short for both, half is the prompt. Take
    texts at random from what you trained on, and beside it as many that you did not.

    Args:
        model: a `GemmaCausalLM` with a preprocessor.
        texts: what `fit` takes, but streams: texts, pairs, conversations, columns, a `Path`.
    """
    preprocessor = copy.copy(model.preprocessor)
    preprocessor.pack = False
    preprocessor.sequence_length = prompt_tokens + continuation_tokens
    cases, skipped, shortened = [], 0, 0
    for row in as_records(texts):
        inputs, _, _ = preprocessor([row])
        ids = np.asarray(inputs["token_ids"])[np.asarray(inputs["padding_mask"]) > 0]
        given = min(prompt_tokens, len(ids) // 2)
        if given < _SHORTEST:
            skipped += 1
            continue
        rest = ids[given : given + min(continuation_tokens, len(ids) - given)]
        shortened += len(ids) < prompt_tokens + continuation_tokens
        cases.append((ids[:given], rest))
    exact = approximate = 0
    with _greedy(model):
        continued = _continued(model, cases)
    for (_, own), made in zip(cases, continued):
        edits = edit_distance(own.tolist(), made.tolist())
        exact += edits == 0
        approximate += edits <= _NEAR * len(own)
    return Recital(len(cases), exact, approximate, shortened, skipped)


def edit_distance(a: Sequence[int], b: Sequence[int]) -> int:
    """Fewest insertions, omissions and changes that turn one into the other.

    >>> edit_distance([1, 2, 3, 4], [1, 3, 4, 5])
    2
    """
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, right in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (left != right))
    return row[-1]


@contextlib.contextmanager
def _greedy(model):
    """The model takes the likeliest token meanwhile, however it was compiled."""
    before = model.sampler, model._generation_engine
    model.sampler, model._generation_engine = GreedySampler(), None
    try:
        yield
    finally:
        model.sampler, model._generation_engine = before


def _continued(model, cases):
    """The likeliest continuation of each case, as long as its own."""
    made = {}
    order = sorted(range(len(cases)), key=lambda i: [len(part) for part in cases[i]])
    for _, alike in itertools.groupby(order, key=lambda i: [len(part) for part in cases[i]]):
        for places in _batched(alike):
            prompts = np.stack([cases[place][0] for place in places])
            given, length = prompts.shape[1], len(cases[places[0]][1])
            ids = np.pad(prompts, [(0, 0), (0, length)])
            mask = np.pad(np.ones_like(prompts), [(0, 0), (0, length)])
            inputs = {"token_ids": ids, "padding_mask": mask}
            out = model.generate(inputs, stop_token_ids=None, seed=0)["token_ids"]
            made |= zip(places, np.asarray(out)[:, given : given + length])
    return [made[place] for place in range(len(cases))]


def _batched(places):
    places = list(places)  # itertools.batched came with Python 3.12
    return [places[first : first + _ROWS] for first in range(0, len(places), _ROWS)]
