"""What a layer remembers of the tokens before: their keys and values.

B batch, T new tokens, S slots, K key heads, H head width.
"""

from typing import Any, NamedTuple

from keras import ops

from keras_gemma.config import GemmaConfig
from keras_gemma.layers import Positions


class KVCache(NamedTuple):
    """Keys and values of a layer's last S tokens, each row a ring of its own.

    Token number n of a row lies in slot n mod S. Padding takes no slot. A layer that sees all
    gets as many slots as there will ever be tokens, so that nothing is overwritten; a windowed
    layer needs its window only.
    """

    keys: Any  # BSKH
    values: Any  # BSKH
    index: Any  # int32 BS, place in the document
    segment: Any  # int32 BS, the document; -1: the slot is empty
    stored: Any  # int32 B, tokens written so far

    def extend(self, keys_BTKH, values_BTKH, positions: Positions):
        """Add new tokens. Returns what they attend to, and the cache that remembers them.

        `(keys, values, Positions of those, cache)`. The two differ for several tokens at once: the
        first of them may still need a slot that the last will take.
        """
        new = (keys_BTKH, values_BTKH, positions.index, positions.segment)
        kept = self._with_one(new) if keys_BTKH.shape[1] == 1 else self._with_many(new)
        if keys_BTKH.shape[1] == 1:  # only the slot that falls out of every window is lost
            return kept.keys, kept.values, Positions(kept.index, kept.segment), kept
        keys, values, index, segment = (
            ops.concatenate([old, ops.cast(added, old.dtype)], axis=1)
            for old, added in zip(self[:4], new)
        )
        return keys, values, Positions(index, segment), kept

    def _with_one(self, new):
        slots = self.keys.shape[1]
        rows_B = ops.arange(ops.shape(self.stored)[0], dtype="int32")
        slot_B = ops.mod(self.stored, slots)
        places = ops.stack([rows_B, slot_B], axis=1)
        real_B1 = new[3] > 0

        def put(old, added):
            shape = (-1,) + (1,) * (len(old.shape) - 1)
            here = ops.take_along_axis(old, ops.reshape(slot_B, shape), axis=1)
            added = ops.where(ops.reshape(real_B1, shape), ops.cast(added, old.dtype), here)
            return ops.scatter_update(old, places, added[:, 0])

        real_B = ops.cast(real_B1[:, 0], "int32")
        return KVCache(*(put(*pair) for pair in zip(self[:4], new)), self.stored + real_B)

    def _with_many(self, new):
        slots, tokens = self.keys.shape[1], new[0].shape[1]
        real_BT = ops.cast(new[3] > 0, "int32")
        stored_B = self.stored + ops.sum(real_BT, axis=1)
        # Where in the chunk its 1st, 2nd, … real token stands: padding is sorted behind.
        place_T = ops.arange(tokens, dtype="int32")
        order_BT = ops.argsort(place_T + tokens * (1 - real_BT), axis=1)
        # A slot keeps the newest token whose number is the slot's, modulo the slots.
        newest_B1 = stored_B[:, None] - 1
        number_BS = newest_B1 - ops.mod(newest_B1 - ops.arange(slots, dtype="int32"), slots)
        rank_BS = number_BS - self.stored[:, None]
        fresh_BS = rank_BS >= 0
        source_BS = ops.take_along_axis(
            ops.cast(order_BT, "int32"), ops.clip(rank_BS, 0, tokens - 1), axis=1
        )

        def put(old, added):
            shape = (-1, slots) + (1,) * (len(old.shape) - 2)
            chosen = ops.take_along_axis(added, ops.reshape(source_BS, shape), axis=1)
            return ops.where(ops.reshape(fresh_BS, shape), ops.cast(chosen, old.dtype), old)

        return KVCache(*(put(*pair) for pair in zip(self[:4], new)), stored_B)


def empty_caches(config: GemmaConfig, batch: int, slots: int, dtype: str) -> tuple[KVCache, ...]:
    """One empty cache per layer: `slots` tokens, or the layer's window where that is shorter."""

    def empty(rules):
        size = slots if rules.window is None else min(slots, rules.window)
        shape = (batch, size, rules.num_key_value_heads, rules.head_dim)
        return KVCache(
            keys=ops.zeros(shape, dtype),
            values=ops.zeros(shape, dtype),
            index=ops.zeros((batch, size), "int32"),
            segment=ops.full((batch, size), -1, dtype="int32"),
            stored=ops.zeros((batch,), "int32"),
        )

    return tuple(empty(config.attention_rules(layer)) for layer in range(config.num_layers))
