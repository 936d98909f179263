"""Prompts that begin like a text that was read before are not read again."""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_gemma.arrays import nbytes
from keras_gemma.generation.prompts import common_prefix


class PrefixCache:
    """Caches of texts, the least recently used of which go when there are too many.

    Args:
        max_bytes: of all caches together; 0 keeps nothing.
        reaches_back: `(caches, stored, count)`: whether caches of `stored` tokens can be taken back
            to the first `count`; a sliding window may have lost what those need.
    """

    def __init__(self, max_bytes: int, reaches_back: Callable[[Any, int, int], bool]):
        self.max_bytes, self._reaches_back = max_bytes, reaches_back
        self._texts: list[tuple[list[int], Any]] = []  # the latest used last

    def find(self, ids: Sequence[int]) -> tuple[int, Any]:
        """`(tokens, caches)`: how many tokens of `ids` the best caches hold; `(0, ())` for none.

        The caches may hold more than those. They stay as they are: what is to be written to is a
        copy.
        """
        best, length = None, 0
        for entry in self._texts:
            known, caches = entry
            shared = len(common_prefix([list(ids), known], all_of_it=True))
            if shared > length and self._reaches_back(caches, len(known), shared):
                best, length = entry, shared
        if best is None:
            return 0, ()
        self._texts.remove(best)
        self._texts.append(best)
        return length, best[1]

    def keep(self, ids: Sequence[int], caches: Any) -> None:
        """Remember caches of one row that hold just `ids`."""
        if not ids or cache_bytes(caches) > self.max_bytes:
            return
        ids = list(ids)
        # What the new text begins with is of no more use.
        self._texts = [entry for entry in self._texts if ids[: len(entry[0])] != entry[0]]
        self._texts.append((ids, caches))
        while self.nbytes > self.max_bytes:
            del self._texts[0]

    def clear(self) -> None:
        """Forget all."""
        self._texts = []

    @property
    def nbytes(self) -> int:
        return sum(cache_bytes(caches) for _, caches in self._texts)


def cache_bytes(caches: Any) -> int:
    """Bytes of all arrays of some caches."""
    return sum(map(nbytes, keras.tree.flatten(caches)))
