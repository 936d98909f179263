"""Contrastive search: of a few likely tokens, the one that is least like what the text has.

B texts, K candidates of each, R = B * K, L longest text (bucketed), D width, V vocabulary,
W tokens of all chunks of a prompt.
"""

from typing import Any, NamedTuple

from keras import ops

from keras_gemma.compilers import argmax
from keras_gemma.generation import kv_cache
from keras_gemma.generation.engine import Engine
from keras_gemma.generation.search import Search, rows_of
from keras_gemma.generation.state import recorded, with_token
from keras_gemma.samplers import NO_TOKEN, SamplingContext


class Remembered(NamedTuple):
    """What the next token of each text is chosen by."""

    logits: Any  # BV, of the next token
    directions: Any  # float32 BLD, hidden states of the text scaled to length 1


class ContrastiveSearch(Search):
    """Runs a `ContrastiveSampler`.

    Each step reads all candidates, one a row, and keeps what the best of them left: so its logits
    are at hand, and the rows of a text hold the same again.
    """

    def __init__(self, engine: Engine, eager: bool = False):
        self._sampler = engine.sampler
        rows = min(self._sampler.k, engine.config.vocabulary_size)
        super().__init__(engine, rows, eager)

    def opened(self, state, hidden, logits_BV):
        hidden_BWD = ops.concatenate(hidden, axis=1)
        width, longest = hidden_BWD.shape[1], state.token_ids.shape[1]
        # Prompts stand on the right there, and texts on the left here.
        place_BL = ops.arange(longest, dtype="int32")[None] + width - state.lengths[:, None]
        place_BL1 = ops.clip(place_BL, 0, width - 1)[:, :, None]
        hidden_BLD = ops.take_along_axis(hidden_BWD, place_BL1, axis=1)
        return state._replace(draft=Remembered(logits_BV, _directions(hidden_BLD)))

    def step(self, found, state):
        known, texts = state.draft, state.lengths.shape[0]
        context = SamplingContext(
            state.token_ids, state.lengths, state.seeds, state.prompt_lengths, state.settings
        )
        probabilities_BV, sound_B = self._sampler.distribution(known.logits, context)
        likely_BK, ids_BK = ops.top_k(probabilities_BV, k=self.rows, sorted=True)
        ids_R = ops.reshape(ops.cast(ids_BK, "int32"), (texts * self.rows,))
        places_R, real_R = (ops.repeat(x, self.rows) for x in (state.lengths, state.running))
        hidden_RD, logits_RV, caches = self.forward(found, ids_R, places_R, real_R, state.caches)
        directions_RD = _directions(hidden_RD)
        directions_BKD = ops.reshape(directions_RD, (texts, self.rows, -1))
        similarity_BKL = ops.matmul(directions_BKD, ops.transpose(known.directions, (0, 2, 1)))
        place_L = ops.arange(state.token_ids.shape[1], dtype="int32")
        before_B1L = (place_L[None] < state.lengths[:, None])[:, None]
        similarity_BK = ops.max(ops.where(before_B1L, similarity_BKL, -1.0), axis=-1)
        alpha = self._sampler.alpha
        score_BK = (1 - alpha) * likely_BK - alpha * similarity_BK
        score_BK = ops.where(likely_BK > 0, score_BK, float("-inf"))
        best_B1 = argmax(score_BK)[:, None]
        best_B = rows_of(texts, self.rows, best_B1)
        token_B = ops.where(sound_B, ops.take(ids_R, best_B, axis=0), NO_TOKEN)

        token_ids, lengths_B, running_B, here_BL = with_token(
            state.token_ids, state.lengths, state.running, token_B, state.stops, state.limits
        )
        direction_B1D = ops.take(directions_RD, best_B, axis=0)[:, None]
        records = state.records
        again_R = ops.repeat(best_B, self.rows)
        return state._replace(
            token_ids=token_ids,
            lengths=lengths_B,
            running=running_B,
            records=records and recorded(records, here_BL, known.logits, token_B),
            caches=kv_cache.each(caches, lambda x_R: ops.take(x_R, again_R, axis=0)),
            draft=Remembered(
                ops.take(logits_RV, best_B, axis=0),
                ops.where(here_BL[:, :, None], direction_B1D, known.directions),
            ),
        )


def _directions(hidden):
    """Hidden states scaled to length 1, in float32."""
    hidden = ops.cast(hidden, "float32")
    length = ops.sqrt(ops.sum(ops.square(hidden), axis=-1, keepdims=True))
    return hidden / ops.maximum(length, 1e-30)
