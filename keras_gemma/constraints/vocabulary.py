"""A tokenizer as constraints see it: the bytes that each token spells."""

import functools
import weakref
from typing import Any

import numpy as np

_SPACE = "▁"  # how a SentencePiece vocabulary writes a space
_VOCABULARIES: weakref.WeakKeyDictionary[Any, "Vocabulary"] = weakref.WeakKeyDictionary()


def vocabulary_of(tokenizer: Any) -> "Vocabulary":
    """The vocabulary of a tokenizer, made once as long as the tokenizer lives."""
    known = _VOCABULARIES.get(tokenizer)
    if known is None or known.proto is not tokenizer.proto:
        known = _VOCABULARIES[tokenizer] = Vocabulary(tokenizer)
    return known


class Vocabulary:
    """The bytes of each token, and the tokens of bytes.

    `tokens` lists the bytes by id; those of control tokens and of `<unk>`, which spell nothing, are
    empty. Behind the `size` ids of the tokenizer stand those bytes that it has no token for, so that
    each text can be cut; a model never makes them.

    Args:
        tokenizer: a `GemmaTokenizer`; known weakly, its users keep it alive.
    """

    def __init__(self, tokenizer: Any):
        self.proto = tokenizer.proto
        self._encode = weakref.WeakMethod(tokenizer.encode)
        self.size: int = tokenizer.vocabulary_size()
        tokens = [piece.replace(_SPACE, " ").encode() for piece in tokenizer.get_vocabulary()]
        for index, byte in tokenizer.byte_values.items():
            tokens[index] = bytes([byte])
        silent = {tokenizer.unk_token_id, *tokenizer.control_tokens.values()}
        for index in silent & set(range(self.size)):
            tokens[index] = b""
        missing = set(range(256)) - {token[0] for token in tokens if len(token) == 1}
        self.is_complete = not missing
        self.tokens: list[bytes] = tokens + [bytes([byte]) for byte in sorted(missing)]
        self.longest = max(map(len, self.tokens))

    @functools.cached_property
    def ids(self) -> dict[bytes, tuple[int, ...]]:
        """The ids that spell these bytes: two where a letter has a piece and a byte of its own."""
        ids: dict[bytes, tuple[int, ...]] = {}
        for index, token in enumerate(self.tokens):
            if token:
                ids[token] = (*ids.get(token, ()), index)
        return ids

    @functools.cached_property
    def spelling(self) -> np.ndarray:
        """The ids that spell something, as bits of uint32 words."""
        return packed([i for i, token in enumerate(self.tokens[: self.size]) if token], self.size)

    def encode(self, text: str) -> list[int]:
        """The tokens that spell this text: the tokenizer's own cut, where it is one of this text.

        It is not where the tokenizer puts a space before, or rewrites letters, or lacks one. Then
        the longest token comes first.
        """
        ids, data = self._encode()(text), text.encode()  # type: ignore[misc]
        if b"".join(self.tokens[i] for i in ids) == data:
            return ids
        ids, at = [], 0
        while at < len(data):
            ends = range(min(len(data), at + self.longest), at, -1)
            end = next(end for end in ends if data[at:end] in self.ids)
            ids.append(self.ids[data[at:end]][0])
            at = end
        return ids

    def can_spell(self, data: bytes) -> bool:
        """Whether tokens of the model spell these bytes, in some cut."""
        if self.is_complete:
            return True
        reached = {0}
        for at in range(len(data)):
            if at in reached:
                ends = range(at + 1, min(len(data), at + self.longest) + 1)
                reached |= {end for end in ends if self.ids_of_model(data[at:end])}
        return len(data) in reached

    def ids_of_model(self, data: bytes) -> list[int]:
        """The tokens of the model that spell just these bytes."""
        return [index for index in self.ids.get(data, ()) if index < self.size]


def packed(ids: Any, size: int) -> np.ndarray:
    """Ids as bits: bit `id % 32` of word `id // 32`; uint32 of shape `(ceil(size / 32),)`.

    >>> packed([0, 33, 34], size=40).tolist()
    [1, 6]
    """
    bits = np.zeros(-(-size // 32) * 32, bool)
    bits[ids] = True
    return np.packbits(bits, bitorder="little").view("<u4")
