"""Tokens guessed cheaply, to be checked many at once: the text is the same, it may come faster.

B batch, L longest text, D tokens of a draft, M tokens that must match.
"""

import functools
from typing import Any

from keras import ops

from keras_gemma.compilers import argmax
from keras_gemma.generation import kv_cache
from keras_gemma.generation.compiled import compiler
from keras_gemma.generation.prompts import chunks_of
from keras_gemma.layers import Positions


class NoDraft:
    """What a draft is asked; this one proposes nothing."""

    length = 0  # D
    always = False  # whether it has a proposal at every step
    variables: tuple = ()  # that its part of a program reads
    arrays: Any = ()  # … and arrays

    def refresh(self) -> None:
        """Follow weights that changed."""

    def start(self, prompts: list[list[int]], slots: int, place) -> Any:
        """What it remembers of the prompts; a part of the state, passed back to it."""
        return ()

    def proposes(self, state: Any) -> Any:
        """bool B: the rows for which it has a proposal."""
        raise NotImplementedError

    def propose(self, arrays: Any, state: Any) -> tuple[Any, Any, Any]:
        """`(state, drafts int32 BD, how many of them are real B)`."""
        raise NotImplementedError

    def grown(self, memory: Any, slots: int) -> Any:
        return memory

    def truncated(self, memory: Any, stored_B: Any) -> Any:
        """What it remembered when only `stored` tokens of each row were read."""
        return memory

    def room(self, memory: Any) -> int | None:
        """Tokens it can remember; `None` where there is no end to it."""
        return None


class PromptLookup(NoDraft):
    """Proposes what followed when the last few tokens stood in the text before.

    It pays where an answer repeats its prompt: summaries with quotations, code that is changed a
    little, questions about a text. Elsewhere it finds nothing, and costs next to nothing.
    """

    def __init__(self, length: int = 7, match: int = 3):
        if not 1 <= length <= kv_cache.SLACK:
            raise ValueError(f"length must be from 1 to {kv_cache.SLACK}, not {length!r}.")
        if match < 1:
            raise ValueError(f"match must be at least 1, not {match!r}.")
        self.length, self.match = length, match

    def proposes(self, state):
        return self._source(state) >= 0

    def propose(self, arrays, state):
        source_B, length = self._source(state), state.token_ids.shape[1]
        # Where the text ends, it is thought to go round once more.
        period_B1 = ops.clip(state.lengths - source_B, 1, length)[:, None]
        place_BD = source_B[:, None] + ops.arange(self.length, dtype="int32") % period_B1
        drafts_BD = ops.take_along_axis(state.token_ids, ops.clip(place_BD, 0, length - 1), axis=1)
        return state, drafts_BD, self.length * ops.cast(source_B >= 0, "int32")

    def _source(self, state):
        """Where the text goes on after the latest place at which its end stood before; or -1."""
        ids_BL, lengths_B1 = state.token_ids, state.lengths[:, None]
        length = ids_BL.shape[1]
        after_L = ops.arange(length, dtype="int32")[None]
        same_BL = ops.logical_and(after_L >= self.match, after_L < lengths_B1)
        for back in range(1, self.match + 1):
            last_B1 = ops.take_along_axis(ids_BL, ops.clip(lengths_B1 - back, 0, length), axis=1)
            before_BL = ops.pad(ids_BL, [[0, 0], [back, 0]])[:, :length]
            same_BL = ops.logical_and(same_BL, ops.equal(before_BL, last_B1))
        return ops.max(ops.where(same_BL, after_L, -1), axis=1)


class DraftModel(NoDraft):
    """Proposes the likeliest tokens of a smaller model with the same vocabulary.

    Args:
        weights: of the smaller model.
        config: of it.
        dtype: of its keys and values.
        length: tokens that it proposes each time.
        chunk: tokens of a prompt that it reads at once.
    """

    always = True

    def __init__(self, weights: Any, config: Any, dtype: str, length: int = 4, chunk: int = 512):
        if not 1 <= length < kv_cache.SLACK:
            raise ValueError(f"length must be from 1 to {kv_cache.SLACK - 1}, not {length!r}.")
        self.weights, self.config, self.length, self.chunk = weights, config, length, chunk
        self.variables = weights.variables
        self._empty = functools.partial(kv_cache.empty_caches, config, dtype=dtype)
        made = compiler(weights.variables)
        self._read = made.program(self._read, donate=1)
        if weights.traceable:
            self._logits = made.step(self._logits)

    @property
    def arrays(self):
        return self.weights.arrays

    def refresh(self):
        self.weights.refresh()

    def start(self, prompts, slots, place):
        caches = tuple(type(c)(*map(place, c)) for c in self._empty(len(prompts), slots))
        for ids, index, segment in chunks_of(prompts, 0, self.chunk, place):
            caches = self._read(self.arrays, caches, ids, Positions(index, segment))
        return caches

    def propose(self, arrays, state):
        caches, newest_B1 = state.draft, state.token_ids
        newest_B1 = ops.take_along_axis(newest_B1, (state.lengths - 1)[:, None], axis=1)
        segment_B1 = ops.cast(state.running, "int32")[:, None]
        drafts = []
        # The last one's guess is not wanted, but that it was read: all of them may be right.
        for place in range(self.length + 1):
            positions = Positions((state.lengths - 1 + place)[:, None], segment_B1)
            logits, caches = self._logits(arrays, newest_B1, positions, caches)
            newest_B1 = argmax(logits)
            drafts.append(newest_B1)
        count_B = ops.full_like(state.lengths, self.length)
        return state._replace(draft=caches), ops.concatenate(drafts[:-1], axis=1), count_B

    def grown(self, memory, slots):
        return kv_cache.grown(self.config, memory, slots)

    def truncated(self, memory, stored_B):
        return kv_cache.truncated(memory, stored_B)

    def room(self, memory):
        room = kv_cache.capacity(self.config, memory)
        return None if room is None else room - 1  # the last guess is read, too

    def _read(self, arrays, caches, ids_BT, positions):
        return self.weights.stack(arrays).hidden_states(ids_BT, positions, caches)[1]

    def _logits(self, arrays, ids_B1, positions, caches):
        stack = self.weights.stack(arrays)
        hidden, caches = stack.hidden_states(ids_B1, positions, caches)
        return stack.logits(hidden), caches
