"""A plain n-gram model to be beaten: interpolated Kneser-Ney over integers, in numpy.

Symbols are bytes of UTF-8, or ids of a tokenizer. G distinct n-grams.
"""

from collections.abc import Sequence

import numpy as np


class KneserNey:
    """P(symbol | the `order - 1` before it), learned from sequences that each stand alone.

    Counts of all orders are sorted arrays of n-grams packed into 64 bits, so forty million
    symbols take seconds and no dictionary.

    >>> model = KneserNey([[0, 1, 0, 1, 0, 1]], order=2, size=2)
    >>> bool(model.bits([0, 1, 0, 1]) < model.bits([0, 0, 0, 0]))
    True
    """

    def __init__(self, sequences: Sequence[Sequence[int]], order: int, size: int):
        self.order, self.size = order, size
        self._width = int(size).bit_length()  # one symbol more than `size`: before the start
        if self._width * order > 64:
            raise ValueError(f"order={order} of {size} symbols passes 64 bits. Lower the order.")
        grams, counts = np.unique(
            np.concatenate([self._grams(sequence) for sequence in sequences]), return_counts=True
        )
        self._levels = []
        for length in range(order, 0, -1):
            self._levels.append(self._level(grams, counts))
            # Of the shorter ones it counts in how many contexts they were seen, not how often.
            shorter = grams & np.uint64((1 << (self._width * (length - 1))) - 1)
            grams, counts = np.unique(shorter, return_counts=True)

    def bits(self, sequence: Sequence[int]) -> float:
        """Bits to write a sequence with this model."""
        grams, probability = self._grams(sequence), 1 / self.size
        for length, level in zip(range(1, self.order + 1), reversed(self._levels)):
            kept = grams & np.uint64((1 << (self._width * length)) - 1)
            probability = self._interpolated(kept, level, probability)
        return float(-np.log2(probability).sum())

    def _grams(self, sequence):
        """The n-gram that ends at each place, oldest symbol in the highest bits."""
        before = np.full(self.order - 1, self.size, np.uint64)
        padded = np.concatenate([before, np.asarray(sequence, np.uint64)])
        grams = np.zeros(len(sequence), np.uint64)
        for back in range(self.order):
            part = padded[self.order - 1 - back : len(padded) - back]
            grams |= part << np.uint64(self._width * back)
        return grams

    def _level(self, grams, counts):
        """What one order needs: its n-grams and counts; of contexts, totals and kinds."""
        contexts, starts = np.unique(grams >> np.uint64(self._width), return_index=True)
        totals = np.add.reduceat(counts, starts)
        kinds = np.diff(np.append(starts, len(grams)))
        once, twice = int((counts == 1).sum()), int((counts == 2).sum())
        # Ney's estimate; where all is frequent (unigrams of bytes), there is little to take off.
        discount = once / (once + 2 * twice) if once else 0.1
        return grams, counts, contexts, totals, kinds, min(discount, 0.95)

    def _interpolated(self, wanted, level, shorter):
        grams, counts, contexts, totals, kinds, discount = level
        place, found = _find(contexts, wanted >> np.uint64(self._width))
        total = np.where(found, totals[place], 1)
        left = np.where(found, discount * kinds[place] / total, 1.0)
        place, seen = _find(grams, wanted)
        own = np.where(seen, np.maximum(counts[place] - discount, 0) / total, 0.0)
        return own + left * shorter


def _find(table, wanted):
    place = np.minimum(np.searchsorted(table, wanted), len(table) - 1)
    return place, table[place] == wanted
