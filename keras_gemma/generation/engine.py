"""Generation: the prompt at once, then token after token.

B batch, P prompt (bucketed), L longest text (bucketed), V vocabulary.
"""

from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_gemma.generation.compiled import compiler
from keras_gemma.generation.kv_cache import empty_caches
from keras_gemma.generation.weights import Weights
from keras_gemma.layers import Positions
from keras_gemma.samplers import SamplingContext


class GenerationState(NamedTuple):
    """All that changes while text is generated; one row per sequence."""

    token_ids: Any  # int32 BL, prompt and answer, padded on the right
    lengths: Any  # int32 B, how many of them are real
    running: Any  # bool B, false once a row has stopped
    caches: Any  # one per layer
    seeds: Any  # int32 B, of the sampler
    limits: Any  # int32 B, the length at which a row stops
    stops: Any  # int32 n, the ids that stop a row; -1 stands for none
    steps: Any  # int32, tokens still to be made before the program returns


class Engine:
    """Runs one model with one sampler.

    It asks two things of a model, `hidden_states` and `logits`, as a `DecoderStack` has them. Three
    compiled programs do all: `prefill`, and `advance`, by one token (a stream) or by many. The first
    argument of each is the arrays of a plan, the second the state.
    """

    def __init__(self, weights: Weights, sampler, config, dtype: str, eager: bool = False):
        self.weights, self.sampler, self.config, self.dtype = weights, sampler, config, dtype
        made = compiler(weights.variables, sampler.variables, eager)
        self._loop = made.loop
        self._next_logits = made.step(self._next_logits)
        self._prefill = made.program(self._prefill, donate=1)
        self._advance = made.program(self._advance, donate=1)

    def start(
        self, prompts: list[list[int]], limits: list[int], stop_ids, seeds, arrange=lambda x: x
    ) -> GenerationState:
        """Read the prompts and choose the first new token of each.

        `limits` are lengths, prompt included. `arrange` places the arrays, over devices say.
        """
        lengths = np.array([len(prompt) for prompt in prompts], "int32")
        prompt_ids = np.zeros((len(prompts), bucket(int(lengths.max()))), "int32")
        for row, prompt in zip(prompt_ids, prompts):
            row[: len(prompt)] = prompt
        slots = bucket(max(limits))
        token_ids = np.zeros((len(prompts), slots), "int32")
        token_ids[:, : prompt_ids.shape[1]] = prompt_ids
        stops = np.full(max(4, len(stop_ids)), -1, "int32")
        stops[: len(stop_ids)] = sorted(stop_ids)
        state = GenerationState(
            token_ids,
            lengths,
            lengths < np.array(limits, "int32"),
            empty_caches(self.config, len(prompts), slots, self.dtype),
            np.array(seeds, "int32"),
            np.array(limits, "int32"),
            stops,
            np.array(0, "int32"),
        )
        self.weights.refresh()
        prompt_ids = arrange(ops.convert_to_tensor(prompt_ids))
        return self._prefill(self.weights.arrays, _arranged(state, arrange), prompt_ids)

    def advance(self, state: GenerationState, steps: int) -> GenerationState:
        """Up to `steps` more tokens for each row that is running."""
        self.weights.refresh()
        state = state._replace(steps=ops.convert_to_tensor(steps, "int32"))
        return self._advance(self.weights.arrays, state)

    def _prefill(self, arrays, state, prompt_ids):
        stack = self.weights.stack(arrays)
        place = ops.arange(ops.shape(prompt_ids)[1], dtype="int32")[None]
        segment = ops.cast(place < state.lengths[:, None], "int32")
        positions = Positions(ops.broadcast_to(place, ops.shape(prompt_ids)), segment)
        hidden, caches = stack.hidden_states(prompt_ids, positions, state.caches)
        last = ops.take_along_axis(hidden, (state.lengths - 1)[:, None, None], axis=1)
        return self._chosen(state._replace(caches=caches), stack.logits(last)[:, 0])

    def _advance(self, arrays, state):
        def goes_on(state):
            return ops.logical_and(ops.any(state.running), state.steps > 0)

        return self._loop(goes_on, lambda state: self._step(arrays, state), state)

    def _step(self, arrays, state):
        newest = ops.take_along_axis(state.token_ids, (state.lengths - 1)[:, None], axis=1)
        positions = Positions(
            (state.lengths - 1)[:, None], ops.cast(state.running, "int32")[:, None]
        )
        logits, caches = self._next_logits(arrays, newest, positions, state.caches)
        return self._chosen(state._replace(caches=caches, steps=state.steps - 1), logits)

    def _next_logits(self, arrays, newest, positions, caches):
        stack = self.weights.stack(arrays)
        hidden, caches = stack.hidden_states(newest, positions, caches)
        return stack.logits(hidden)[:, 0], caches

    def _chosen(self, state, logits):
        context = SamplingContext(state.token_ids, state.lengths, state.seeds)
        chosen = ops.cast(self.sampler(logits, context), "int32")
        here = ops.arange(ops.shape(state.token_ids)[1], dtype="int32") == state.lengths[:, None]
        here = ops.logical_and(here, state.running[:, None])
        lengths = state.lengths + ops.cast(state.running, "int32")
        stopped = ops.any(ops.equal(chosen[:, None], state.stops), axis=-1)
        stopped = ops.logical_or(stopped, lengths >= state.limits)
        return state._replace(
            token_ids=ops.where(here, chosen[:, None], state.token_ids),
            lengths=lengths,
            running=ops.logical_and(state.running, ops.logical_not(stopped)),
        )


def _arranged(state, arrange):
    """The state as tensors, each passed through `arrange`."""

    def place(x):
        return arrange(ops.convert_to_tensor(x))

    caches = tuple(type(cache)(*map(place, cache)) for cache in state.caches)
    return GenerationState(*(caches if part is state.caches else place(part) for part in state))


def bucket(length: int) -> int:
    """The next length that programs are compiled for: powers of two, then steps of 256.

    >>> [bucket(n) for n in (1, 17, 1000, 1025)]
    [16, 32, 1024, 1280]
    """
    if length > 1024:
        return -(-length // 256) * 256
    return max(16, 1 << (length - 1).bit_length())
