"""Texts made by a search: several rows of keys and values for each, and one loop.

B texts, K rows of each, R = B * K, T tokens of a chunk, L longest text (bucketed), D width,
V vocabulary.
"""

from typing import Any

from keras import ops

from keras_gemma import compilers, device_memory
from keras_gemma.generation import kv_cache
from keras_gemma.generation.compiled import compiler
from keras_gemma.generation.engine import Engine
from keras_gemma.generation.prompts import chunks_of
from keras_gemma.generation.state import GenerationState, Request, numpy, opening_state
from keras_gemma.layers import Positions


class Search:
    """Stands where an `Engine` does, for a sampler that compares texts.

    Prompts are read once, and what was read is given to all rows of a text. A kind of search says
    what it remembers, the state's `draft`, and what a step does. Nothing is kept for prompts that
    come later.

    Args:
        engine: whose weights and sizes these are; its sampler is a `SearchSampler`.
        rows: of keys and values for each text, K.
        eager: run without compiling.

    Raises:
        ValueError: the engine has a draft.
    """

    takes_told_tokens = False  # there is no constraint that could tell any

    def __init__(self, engine: Engine, rows: int, eager: bool = False):
        self._kind = type(engine.sampler).__name__
        if engine.draft.length:
            raise ValueError(
                f"A draft guesses what a sampler chooses token by token, and {self._kind} compares "
                "texts: compile with draft=None, or with another sampler."
            )
        self.engine, self.rows, self.weights = engine, rows, engine.weights
        made = compiler(engine.weights.variables, engine.sampler.variables, eager)
        self._loop = made.loop
        if engine.weights.traceable:
            self._forward = made.step(self._forward)
        self._read = made.program(self._read, donate=1)
        self._open = made.program(self._open)
        self._advance = made.program(self._advance, donate=1)

    # --- what an engine offers ---

    def start(
        self, requests: list[Request], top: int | None = None, place=lambda x: x
    ) -> GenerationState:
        """Read the prompts; arguments as for `Engine.start`.

        Raises:
            ValueError: a request has a constraint.
            MemoryError: keys and values can't fit.
        """
        if any(request.matcher is not None for request in requests):
            raise ValueError(
                f"A constraint follows one text token by token, and {self._kind} compares several: "
                "leave the constraint out, or compile with another sampler."
            )
        engine, limit = self.engine, max(request.limit for request in requests)
        many = len(requests) * self.rows
        kv_cache.check_memory(
            engine.config, many, limit, engine.dtype, engine.cache, device_memory.total()
        )
        self.weights.refresh()
        prompts = [list(request.prompt) for request in requests]
        slots = engine.slots_for(max(map(len, prompts)) + 1, limit)
        empty = kv_cache.each(engine.empty(len(requests), slots), place)
        caches, hidden = tuple(map(kv_cache.FreshCache, empty)), []
        for chunk in chunks_of(prompts, 0, engine.chunk_for(len(prompts)), place):
            hidden_BTD, caches = self._read(self.weights.arrays, caches, *chunk)
            hidden.append(hidden_BTD)
        state = opening_state(requests, top, place)._replace(caches=caches)
        return self._open(self.weights.arrays, state, tuple(hidden))

    def advance(self, state: GenerationState, steps: int) -> GenerationState:
        """Up to `steps` more tokens for each text that is running."""
        engine = self.engine
        self.weights.refresh()
        while steps > 0 and numpy(state.running).any():
            stored = int(numpy(state.caches[0].stored).max())
            room = kv_cache.capacity(engine.config, state.caches)
            if room is not None and stored >= room:
                slots = engine.slots_for(stored + 1, int(numpy(state.limits).max()))
                state = state._replace(caches=kv_cache.grown(engine.config, state.caches, slots))
                continue
            count = steps if room is None else min(steps, room - stored)
            state = state._replace(steps=ops.convert_to_tensor(count, "int32"))
            state = self._advance(self.weights.arrays, state)
            steps -= count - int(numpy(state.steps))
        return state

    def keep(self, state: GenerationState) -> None:
        """Nothing: which of the rows was chosen is known too late."""

    def forget(self) -> None:
        """Let go of what was made of the weights."""
        self.engine.forget()

    # --- what a kind of search says ---

    def opened(self, state: GenerationState, hidden: tuple, logits_BV: Any) -> GenerationState:
        """The state once prompts are read; `hidden` are their hidden states, BTD, by chunk.

        The caches hold R rows by now. Prompts stand on the right.
        """
        raise NotImplementedError

    def step(self, found: Any, state: GenerationState) -> GenerationState:
        """One more token of each text that is running."""
        raise NotImplementedError

    # --- for these ---

    def forward(self, found: Any, ids_R: Any, places_R: Any, real_R: Any, caches: tuple) -> tuple:
        """`(hidden_RD, logits_RV, caches)` of one token of each row."""
        positions = Positions(places_R[:, None], ops.cast(real_R, "int32")[:, None])
        hidden_R1D, logits_R1V, caches = self._forward(found, ids_R[:, None], positions, caches)
        return hidden_R1D[:, 0], logits_R1V[:, 0], caches

    # --- programs ---

    def _read(self, found, caches, ids_BT, index_BT, segment_BT):
        positions = Positions(index_BT, segment_BT)
        return self.weights.stack(found).hidden_states(ids_BT, positions, caches)

    def _open(self, found, state, hidden):
        logits_BV = self.weights.stack(found).logits(hidden[-1][:, -1:])[:, 0]
        # In order, since one row repeated may be a mere view of it, and these are written to.
        caches = kv_cache.each(
            state.caches, lambda x: compilers.in_order(ops.repeat(x, self.rows, axis=0))
        )
        return self.opened(state._replace(caches=caches), hidden, logits_BV)

    def _advance(self, found, state):
        def goes_on(state):
            return ops.logical_and(ops.any(state.running), state.steps > 0)

        def step(found, state):
            return self.step(found, state._replace(steps=state.steps - 1))

        return self._loop(goes_on, step, state, found)

    def _forward(self, found, ids_RT, positions, caches):
        stack = self.weights.stack(found)
        hidden, caches = stack.hidden_states(ids_RT, positions, caches)
        return hidden, stack.logits(hidden), caches


def rows_of(texts: int, each: int, choice: Any) -> Any:
    """The rows, among all, of those that are chosen by their number within their text.

    >>> ops.convert_to_numpy(rows_of(2, 3, ops.array([[0, 2], [1, 1]]))).tolist()
    [0, 2, 4, 4]
    """
    first_B1 = ops.arange(0, texts * each, each, dtype="int32")[:, None]
    return ops.reshape(ops.cast(choice, "int32") + first_B1, (-1,))
