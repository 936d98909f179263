"""Beam search: the likeliest texts so far go on, side by side.

B texts, K beams of each, R = B * K, L longest text (bucketed), V vocabulary.
"""

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_gemma.generation.engine import Engine
from keras_gemma.generation.search import Search, rows_of
from keras_gemma.generation.state import GenerationState, numpy, recorded, tensor, with_token
from keras_gemma.samplers import NO_TOKEN, SamplingContext


class Beams(NamedTuple):
    """All beams, those of one text together and the likeliest first."""

    token_ids: Any  # int32 RL
    lengths: Any  # int32 R
    log_probs: Any  # float32 R, of the whole answer; minus infinity: there is no such text
    going: Any  # bool R
    records: Any  # TokenRecords of R rows, or the empty tuple


class Beam(NamedTuple):
    """One of the texts that a search ended with."""

    new_ids: list[int]
    log_prob: float  # of all of them together, in nats


class BeamSearch(Search):
    """Runs a `BeamSampler`. The state's texts are those of the likeliest beams, at each moment.

    A beam that stopped takes part with its log-probability as it is.
    """

    def __init__(self, engine: Engine, eager: bool = False):
        super().__init__(engine, engine.sampler.num_beams, eager)
        self._sampler = engine.sampler.repeated(self.rows)

    def beams(self, state: GenerationState) -> list[list[Beam]]:
        """All beams of each text, likeliest first; of those that there are."""
        kept, prompts = state.draft, numpy(state.prompt_lengths)
        ids, ends, log_probs = map(numpy, (kept.token_ids, kept.lengths, kept.log_probs))
        return [
            [
                Beam(ids[row, start : ends[row]].tolist(), float(log_probs[row]))
                for row in range(text * self.rows, (text + 1) * self.rows)
                if log_probs[row] > -np.inf
            ]
            for text, start in enumerate(prompts)
        ]

    def opened(self, state, hidden, logits_BV):
        # All beams are the prompt, and one of them counts.
        first_K = np.where(np.arange(self.rows) == 0, 0.0, -np.inf).astype("float32")
        again = self._repeated
        beams = Beams(
            again(state.token_ids),
            again(state.lengths),
            ops.tile(tensor(first_K), (state.lengths.shape[0],)),
            again(state.running),
            keras.tree.map_structure(again, state.records),
        )
        return self._chosen(state._replace(draft=beams), again(logits_BV))

    def step(self, found, state):
        beams = state.draft
        newest_R = ops.take_along_axis(beams.token_ids, beams.lengths[:, None] - 1, axis=1)[:, 0]
        _, logits_RV, caches = self.forward(
            found, newest_R, beams.lengths - 1, beams.going, state.caches
        )
        return self._chosen(state._replace(caches=caches), logits_RV)

    def _chosen(self, state, logits_RV):
        """The state with the likeliest of all ways in which the beams of a text can go on."""
        beams, again = state.draft, self._repeated
        texts, vocabulary = state.lengths.shape[0], logits_RV.shape[1]
        settings = {name: again(number) for name, number in state.settings.items()}
        given = again(state.seeds), again(state.prompt_lengths), settings
        context = SamplingContext(beams.token_ids, beams.lengths, *given)
        probabilities_RV, sound_R = self._sampler.distribution(logits_RV, context)
        # A beam that stopped has one way to go on, which changes nothing; its token isn't used.
        stays_V = np.where(np.arange(vocabulary) == 0, 0.0, -np.inf).astype("float32")
        gain_RV = ops.where(beams.going[:, None], ops.log(probabilities_RV), stays_V)
        # What can't be chosen from must come first, to be told of.
        broken_R1 = ops.logical_and(beams.going, ops.logical_not(sound_R))[:, None]
        ways_RV = ops.where(broken_R1, np.inf, beams.log_probs[:, None] + gain_RV)
        ways_BM = ops.reshape(ways_RV, (texts, -1))
        log_probs_BK, way_BK = ops.top_k(ways_BM, k=self.rows, sorted=True)
        log_probs_R = ops.reshape(log_probs_BK, (texts * self.rows,))
        way_BK = ops.cast(way_BK, "int32")
        parent_R = rows_of(texts, self.rows, way_BK // vocabulary)
        token_R = ops.reshape(way_BK % vocabulary, (texts * self.rows,))
        token_R = ops.where(log_probs_R < np.inf, token_R, NO_TOKEN)

        caches, beams = keras.tree.map_structure(
            lambda x_R: ops.take(x_R, parent_R, axis=0), (state.caches, beams)
        )
        ids_RL, lengths_R, going_R, here_RL = with_token(
            beams.token_ids,
            beams.lengths,
            beams.going,
            token_R,
            again(state.stops),
            again(state.limits),
        )
        going_BK = ops.reshape(ops.logical_and(going_R, log_probs_R > -np.inf), (texts, -1))
        # No other can pass the likeliest once that has stopped.
        open_B = going_BK if self._sampler.return_all_beams else going_BK[:, :1]
        running_B = ops.logical_and(state.running, ops.any(open_B, axis=1))
        going_R = ops.reshape(ops.logical_and(going_BK, running_B[:, None]), (-1,))
        records = beams.records
        if records:
            likely_RV = ops.take(logits_RV, parent_R, axis=0)
            records = recorded(records, here_RL, likely_RV, token_R)
        beams = Beams(ids_RL, lengths_R, log_probs_R, going_R, records)

        def best(x_R):
            return x_R[:: self.rows]

        return state._replace(
            caches=caches,
            draft=beams,
            token_ids=best(ids_RL),
            lengths=best(lengths_R),
            running=running_B,
            records=keras.tree.map_structure(best, records),
        )

    def _repeated(self, x_B):
        return ops.repeat(x_B, self.rows, axis=0)
