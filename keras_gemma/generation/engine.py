"""Generation: the prompt in chunks, then token after token.

B batch, T tokens of a chunk, L longest text (bucketed), V vocabulary.
"""

import functools
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
from keras import ops

from keras_gemma import arrays, device_memory
from keras_gemma.generation import kv_cache, loop_cache
from keras_gemma.generation.compiled import changed, compiler, marks, traits
from keras_gemma.generation.drafting import NoDraft
from keras_gemma.generation.kv_cache import FreshCache
from keras_gemma.generation.prefix_cache import PrefixCache
from keras_gemma.generation.prompts import chunks_of, common_prefix, last_tokens
from keras_gemma.generation.state import (
    GenerationState,
    Request,
    bits,
    bucket,
    numpy,
    opening_state,
    recorded,
    tensor,
    with_token,
)
from keras_gemma.generation.weights import Weights
from keras_gemma.layers import Positions
from keras_gemma.samplers import SamplingContext

# Tokens of a prompt that are read at once. On a CPU the scores of attention then fit beside the model; what
# a GPU reads at once may be more, or starting its operations takes longer than they do.
CHUNK = 512
_GPU_TOKENS = 2**15  # of all rows
_GPU_CHUNK = 2048
# Tokens told at once, and the one before them: what a ring can hold, and kernels read in one call.
MOST_UNREAD = kv_cache.SLACK + 1
_FIRST_SLOTS = 256  # of a cache; it grows fourfold, so that few programs serve all lengths
_WORTH_SHARING = 64  # tokens; fewer are sooner read again than programs made that do without
_FORBIDDEN = -1e30  # finite, for a product with zero must not be NaN


class Engine:
    """Runs one model with one sampler.

    It asks two things of a model, `hidden_states` and `logits`, as a `DecoderStack` has them. Four
    kinds of programs do all: one reads a chunk of a prompt, one reads the last chunk and chooses
    the first token, one makes tokens in a loop, and one takes up caches that were kept. The first
    argument of the former three is the arrays of a plan; the second, caches or a state, is gone
    after a call.

    Args:
        weights: what the programs read.
        sampler: chooses tokens.
        config: of the model.
        dtype: of keys and values.
        eager: run without compiling.
        cache: how they are remembered, one of `kv_cache.KINDS`.
        chunk: tokens of a prompt that are read at once; what comes out is the same for each. By
            default as many as suit the device.
        prefix_bytes: most memory for texts that are remembered for prompts that begin like them.
        draft: proposes tokens that are checked together, of `keras_gemma.generation.drafting`.
    """

    def __init__(
        self,
        weights: Weights,
        sampler: Any,
        config: Any,
        dtype: str,
        eager: bool = False,
        *,
        cache: str = "full",
        chunk: int | None = None,
        prefix_bytes: int = 0,
        draft: Any = None,
    ):
        self.weights, self.sampler, self.config = weights, sampler, config
        self._chunk, self.draft = chunk, draft or NoDraft()
        self.prefixes = PrefixCache(prefix_bytes, functools.partial(kv_cache.reaches_back, config))
        self._marks: Any = None
        self.dtype, self.cache = dtype, cache
        variables = (*weights.variables, *self.draft.variables)
        made = self._compiler = compiler(variables, sampler.variables, eager)
        self.compile = made.program
        if weights.traceable:
            self._logits = made.step(self._logits)
        self._advance = made.program(self._advance, donate=1)
        self._programs: dict[Any, Any] = {}

    # --- what is called from outside ---

    def start(
        self, requests: list[Request], top: int | None = None, place=lambda x: x
    ) -> GenerationState:
        """Read the prompts and choose the first new token of each.

        With `top`, log-probabilities are recorded, and those of the `top` likeliest tokens too.
        `place` puts arrays where they belong, over devices say.
        """
        return cast(GenerationState, [*self.starting(requests, top, place)][-1])

    def starting(
        self,
        requests: list[Request],
        top: int | None = None,
        place=lambda x: x,
        length: int = 0,
        slots: int = 0,
        stops: int = 0,
    ) -> Iterator[GenerationState | None]:
        """`start`, a chunk at a time: yields `None` after each but the last, then the state.

        `length`, `slots` and `stops` are the least that texts, caches and lists of ids to stop at
        have room for.
        """
        limit = max(length, *(request.limit for request in requests))
        kv_cache.check_memory(
            self.config, len(requests), limit, self.dtype, self.cache, device_memory.total()
        )
        self._refresh()
        state = opening_state(requests, top, place, length, stops)
        prompts = [list(request.prompt) for request in requests]
        longest = max(map(len, prompts)) + self.draft.length + 1
        slots = max(slots, self.slots_for(longest, limit))
        known, caches = self._known(prompts, slots)
        unread, chunk = [prompt[known:] for prompt in prompts], self.chunk_for(len(prompts))
        *chunks, last = chunks_of(unread, known, chunk, place)
        for chunk in chunks:
            caches = self._read(caches, slots, chunk)
            yield None
        state = state._replace(caches=caches, draft=self.draft.start(prompts, slots, place))
        open_texts = self._program(self._open, () if caches else (len(requests), slots))
        yield open_texts(self._arrays(), state, *last)

    def advance(self, state: GenerationState, steps: int) -> GenerationState:
        """Up to `steps` more steps, of a token or more, for each row that is running."""
        self._arrays_refresh()
        while steps > 0:
            running, limits = numpy(state.running), numpy(state.limits)
            if not running.any():
                break
            needed = np.minimum(numpy(state.lengths) + self.draft.length, limits)[running].max()
            room = self._room(state)
            if room is not None and needed > room:
                slots = self.slots_for(int(needed), int(limits[running].max()))
                state = self.with_room(state, slots)
            state = state._replace(steps=ops.convert_to_tensor(steps, "int32"))
            state = self._advance(self._arrays(), state)
            steps = int(numpy(state.steps))
        return state

    @property
    def takes_told_tokens(self) -> bool:
        """Whether tokens that nobody need choose may be told, and be read by `catch_up`."""
        return traits().reads_chunks_fast and not self.draft.length and self.sampler.takes_the_only

    def catch_up(self, state: GenerationState, unread: np.ndarray) -> GenerationState:
        """Read the last `unread` tokens of each text at once, and choose the next one.

        Their newest token is one of them; the most at once are `MOST_UNREAD`.
        """
        self._arrays_refresh()
        running, lengths = numpy(state.running), numpy(state.lengths)
        room, longest = self._room(state), int(lengths[running].max())
        if room is not None and longest > room:
            limit = int(numpy(state.limits)[running].max())
            state = self.with_room(state, self.slots_for(longest, limit))
        chunk = last_tokens(numpy(state.token_ids), lengths, unread * running, MOST_UNREAD)
        read = self._program(self._open, fresh=())
        return read(self._arrays(), state, *map(tensor, chunk))

    def keep(self, state: GenerationState) -> None:
        """Remember a text that is finished, for prompts that begin like it. Its state is used up."""
        if len(state.lengths) == 1 and self._is_current():
            # The newest token is not read yet, nor are some that were told.
            known = min(int(numpy(state.lengths)[0]) - 1, kv_cache.stored(state.caches))
            ids = numpy(state.token_ids)[0, :known].tolist()
            self.prefixes.keep(ids, state.caches)

    def forget(self) -> None:
        """Let go of what was made with the weights as they are: they are about to change."""
        self.weights.forget()
        self.prefixes.clear()
        self._marks = None

    def with_room(self, state: GenerationState, slots: int) -> GenerationState:
        """The state with at least so many slots in its caches."""
        caches = kv_cache.grown(self.config, state.caches, slots)
        return state._replace(caches=caches, draft=self.draft.grown(state.draft, slots))

    def empty(self, rows: int, slots: int) -> tuple:
        """Empty caches, one for each layer."""
        return kv_cache.empty_caches(self.config, rows, slots, self.dtype, self.cache)

    def chunk_for(self, rows: int) -> int:
        """Tokens of each prompt that are read at once."""
        if self._chunk is not None or arrays.device_kind() == "cpu":
            return self._chunk or CHUNK
        return min(_GPU_CHUNK, max(CHUNK, _GPU_TOKENS // rows))

    def slots_for(self, needed: int, limit: int) -> int:
        """Of a cache that must hold `needed` tokens now and may come to hold `limit`."""
        slots = _FIRST_SLOTS
        while slots < needed:
            slots *= 4
        # A little more now spares a second program.
        return bucket(limit) if bucket(limit) <= 2 * slots else slots

    # --- prompts ---

    def _known(self, prompts, slots):
        """`(tokens, caches)`: how many of all prompts need not be read, and caches that hold them."""
        if not self.prefixes.max_bytes:
            return 0, ()
        common = common_prefix(prompts)
        known, caches = self.prefixes.find(common)
        if len(prompts) > 1 and len(common) - known >= _WORTH_SHARING:
            if known:
                caches = self._resumed(caches, known, 1, slots)
            for chunk in chunks_of([common[known:]], known, self.chunk_for(1)):
                caches = self._read(caches, slots, chunk)
            known = len(common)
            self.prefixes.keep(common, caches)
        return known, self._resumed(caches, known, len(prompts), slots) if known else ()

    def _read(self, caches, slots, chunk):
        program = self._program(self._read_chunk, () if caches else (len(chunk[0]), slots))
        return program(self._arrays(), caches, *chunk)

    def _resumed(self, caches, known, rows, slots):
        key = "resumed", rows, slots
        if key not in self._programs:

            def resumed(caches, count_B):
                caches = kv_cache.truncated(caches, count_B)
                caches = kv_cache.grown(self.config, caches, slots)
                # Those kept must stay as they are, and these will be written to.
                return kv_cache.each(caches, lambda x: ops.copy(ops.repeat(x, rows, axis=0)))

            self._programs[key] = self._compiler.program(resumed)
        return self._programs[key](caches, ops.convert_to_tensor([known], "int32"))

    def _program(self, function, fresh):
        """The program of a function whose caches are given, or fresh ones of (rows, slots)."""
        key = function.__name__, fresh
        if key not in self._programs:
            part = functools.partial(function, fresh=fresh)
            self._programs[key] = self._compiler.program(part, donate=1)
        return self._programs[key]

    def _caches(self, caches, fresh):
        return tuple(map(FreshCache, self.empty(*fresh))) if fresh else caches

    def _read_chunk(self, found, caches, ids_BT, index_BT, segment_BT, fresh):
        stack, positions = self.weights.stack(found[0]), Positions(index_BT, segment_BT)
        return stack.hidden_states(ids_BT, positions, self._caches(caches, fresh))[1]

    def _open(self, found, state, ids_BT, index_BT, segment_BT, fresh):
        stack, positions = self.weights.stack(found[0]), Positions(index_BT, segment_BT)
        caches = self._caches(state.caches, fresh)
        hidden, caches = stack.hidden_states(ids_BT, positions, caches)
        # Prompts stand on the right: the last token of each is the last of the chunk.
        logits = stack.logits(hidden[:, -1:])[:, 0]
        return self._chosen(state._replace(caches=caches), logits)[0]

    # --- token after token ---

    def _advance(self, found, state):
        if not (traits().carries_matrices and self.weights.traceable and self.cache == "full"):
            return self._looped(found, state)
        state = self._looped(found, state._replace(caches=loop_cache.carried(state.caches)))
        return state._replace(caches=loop_cache.settled(self.config, state.caches))

    def _looped(self, found, state):
        loop, room = self._compiler.loop, self._room(state)
        whole = self.weights.traceable and self.sampler.is_plain

        def goes_on(state):
            going = ops.logical_and(ops.any(state.running), state.steps > 0)
            if room is None:
                return going
            needed = ops.minimum(state.lengths + self.draft.length, state.limits)
            needed = ops.where(state.running, needed, 0)
            return ops.logical_and(going, ops.all(needed <= room))

        if self.draft.length == 0:
            return loop(goes_on, self._step, state, found, whole)
        if self.draft.always:
            return loop(goes_on, self._checked_step, state, found, whole)

        # Two loops that take turns: a condition would copy the caches on its way.
        def proposes(state):
            return ops.any(ops.logical_and(state.running, self.draft.proposes(state)))

        def both(found, state):
            def plain(state):
                return ops.logical_and(goes_on(state), ops.logical_not(proposes(state)))

            def checked(state):
                return ops.logical_and(goes_on(state), proposes(state))

            state = loop(plain, self._step, state, found, whole)
            return loop(checked, self._checked_step, state, found, whole)

        return loop(goes_on, both, state, found)

    def _step(self, found, state):
        newest_B1 = ops.take_along_axis(state.token_ids, (state.lengths - 1)[:, None], axis=1)
        positions = Positions(
            (state.lengths - 1)[:, None], ops.cast(state.running, "int32")[:, None]
        )
        logits, caches = self._logits(found[0], newest_B1, positions, state.caches)
        state = state._replace(caches=caches, steps=state.steps - 1)
        return self._chosen(state, logits[:, 0])[0]

    def _checked_step(self, found, state):
        """Tokens that the draft proposes, as far as the sampler would have chosen them itself.

        The sampler's noise depends on seed and place only, so that the text is the one that would
        have come without a draft, sampled or not.
        """
        state, drafts_BD, count_B = self.draft.propose(found[1], state)
        newest_B1 = ops.take_along_axis(state.token_ids, (state.lengths - 1)[:, None], axis=1)
        place_T = ops.arange(drafts_BD.shape[1] + 1, dtype="int32")[None]
        count_B = ops.minimum(count_B, state.limits - state.lengths)
        real_BT = ops.logical_and(place_T <= count_B[:, None], state.running[:, None])
        positions = Positions((state.lengths - 1)[:, None] + place_T, ops.cast(real_BT, "int32"))
        ids_BT = ops.concatenate([newest_B1, drafts_BD], axis=1)
        logits_BTV, caches = self._logits(found[0], ids_BT, positions, state.caches)
        state = state._replace(caches=caches, steps=state.steps - 1)
        right_B = state.running
        for place in range(ids_BT.shape[1]):
            state, chosen_B = self._chosen(state, logits_BTV[:, place], right_B)
            if place < drafts_BD.shape[1]:
                right_B = ops.logical_and(right_B, ops.equal(chosen_B, drafts_BD[:, place]))
                right_B = ops.logical_and(right_B, place < count_B)
                right_B = ops.logical_and(right_B, state.running)
        stored_B = state.lengths - 1
        return state._replace(
            caches=kv_cache.truncated(state.caches, stored_B),
            draft=self.draft.truncated(state.draft, stored_B),
        )

    def _logits(self, found, ids_BT, positions, caches):
        stack = self.weights.stack(found)
        hidden, caches = stack.hidden_states(ids_BT, positions, caches)
        return stack.logits(hidden), caches

    def _chosen(self, state, logits_BV, going_B=None):
        """The state with one more token in the rows that are going, and what was chosen for each."""
        going_B = state.running if going_B is None else going_B
        context = SamplingContext(
            state.token_ids, state.lengths, state.seeds, state.prompt_lengths, state.settings
        )
        possible_BV = logits_BV
        if not isinstance(state.allowed, tuple):
            allowed_BV = bits(state.allowed, logits_BV.shape[-1])
            possible_BV = ops.where(allowed_BV, logits_BV, _FORBIDDEN)
        chosen_B = ops.cast(self.sampler(possible_BV, context), "int32")
        grown = with_token(
            state.token_ids, state.lengths, going_B, chosen_B, state.stops, state.limits
        )
        state = state._replace(
            token_ids=grown.token_ids,
            lengths=grown.lengths,
            running=ops.where(going_B, grown.going, state.running),
            records=state.records and recorded(state.records, grown.here, logits_BV, chosen_B),
        )
        return state, chosen_B

    # --- sizes, and weights that change ---

    def _room(self, state):
        """Tokens for which all caches have room; `None` where there is no end to it."""
        rooms = [kv_cache.capacity(self.config, state.caches), self.draft.room(state.draft)]
        return min((room for room in rooms if room is not None), default=None)

    def _arrays(self):
        return self.weights.arrays, self.draft.arrays

    def _arrays_refresh(self):
        self.weights.refresh()
        self.draft.refresh()

    def _refresh(self):
        self._arrays_refresh()
        if not self._is_current():
            self.prefixes.clear()
            self._marks = marks(self.weights.sources)

    def _is_current(self):
        """Whether what was kept is of the weights as they are."""
        return self._marks is not None and not changed(self.weights.sources, self._marks)
