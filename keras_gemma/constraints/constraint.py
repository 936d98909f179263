"""What all constraints have in common, and what follows one text as it grows.

V vocabulary of the model.
"""

import abc
import operator
from collections.abc import Iterable
from itertools import takewhile
from typing import Any

import numpy as np

from keras_gemma.constraints.vocabulary import packed, vocabulary_of


class Constraint(abc.ABC):
    """A set of texts, one of which the model is to write. Serves any number of generations."""

    @abc.abstractmethod
    def matcher(
        self,
        tokenizer: Any,
        vocabulary_size: int | None = None,
        end_token_ids: Iterable[int] | None = None,
    ) -> "Matcher":
        """What follows one text as it is generated.

        Args:
            tokenizer: the model's `GemmaTokenizer`. What is worked out of it is kept as long as it
                lives, so that only the first matcher is slow.
            vocabulary_size: V, where the model has more ids than the tokenizer.
            end_token_ids: the ids that end a text; `<eos>` and `<end_of_turn>` by default.

        Raises:
            ValueError: no text of the constraint can be spelled with this tokenizer.
        """


class Matcher(abc.ABC):
    """Knows the text so far, and says which tokens may come next.

    The tokens that end a text may come where the text may end, and nowhere else; after one of them
    nothing but them may. Control tokens never may.

        matcher = constraint.matcher(tokenizer)
        while not matcher.finished:
            matcher.accept(choose(logits, matcher.allowed()))
    """

    def __init__(self, tokenizer, vocabulary_size=None, end_token_ids=None):
        self._tokenizer = tokenizer  # else nobody may keep it, and its cut of texts is needed
        self.vocabulary = vocabulary_of(tokenizer)
        known = self.vocabulary.size
        self._size = known if vocabulary_size is None else operator.index(vocabulary_size)
        if self._size < known:
            raise ValueError(
                f"vocabulary_size={self._size} is less than the {known} tokens of the tokenizer. "
                "Give the tokenizer that belongs to the model."
            )
        if end_token_ids is None:
            ends = (tokenizer.end_token_id, tokenizer.end_of_turn_token_id)
            end_token_ids = [index for index in ends if index is not None]
        self._ends = frozenset(map(operator.index, end_token_ids))
        if wrong := [index for index in self._ends if not 0 <= index < self._size]:
            raise ValueError(f"end_token_ids {wrong} are outside of the {self._size} ids.")
        bits = packed(list(self._ends), self._size)
        self._end_words = np.flatnonzero(bits)
        self._end_bits = bits[self._end_words]
        self._text = bytearray()
        self._ended = False

    def allowed(self) -> np.ndarray:
        """The tokens that may come next, as bits: int32 of shape `(ceil(V / 32),)`.

        Bit `v % 32` of word `v // 32` is token v. At least one is set. Where the next letters are
        certain, a grammar allows one token only, the first of `forced()`.

        Raises:
            RuntimeError: nothing may come next and the text may not end, or a grammar is too large
                to go on with.
        """
        words = np.zeros(-(-self._size // 32), "uint32")
        if not self._ended:
            self._mark_next(words)
        words[self._end_words] &= ~self._end_bits
        if self._ended or self._may_end():
            words[self._end_words] |= self._end_bits
        if not words.any():
            raise RuntimeError(f"No token may follow {self._shown()}. {self._reason()}")
        return words.view("int32")

    def accept(self, token_id: int) -> None:
        """Go on with this token: one of `allowed()`, or another that spells what may come next.

        Raises:
            ValueError: the token may not come next. The matcher is as before.
            RuntimeError: a grammar is too large to go on with.
        """
        index = operator.index(token_id)
        if index in self._ends:
            if not (self._ended or self._may_end()):
                raise ValueError(f"The text may not end after {self._shown()} (token {index}).")
            self._ended = True
            return
        token = self.vocabulary.tokens[index] if 0 <= index < self.vocabulary.size else b""
        if self._ended or not token or not self._take(index):
            raise ValueError(
                f"Token {index} ({token.decode(errors='replace')!r}) may not follow "
                f"{self._shown()}. Choose one of those that allowed() marks."
            )
        self._text += token

    @property
    def finished(self) -> bool:
        """Whether an end token has come, or nothing else may."""
        return self._ended or self._is_complete()

    def forced(self) -> list[int]:
        """The tokens, in the tokenizer's own cut, of letters that are certain to come next."""
        if self.finished:
            return []
        ends, size = self._ends, self.vocabulary.size
        return list(takewhile(lambda i: i < size and i not in ends, self._forced()))

    def _shown(self):
        text = self._text.decode(errors="replace")
        return f"the text {text!r}" if len(text) < 60 else f"a text that ends in {text[-50:]!r}"

    @abc.abstractmethod
    def _mark_next(self, words: np.ndarray) -> None:
        """Set the bits of the tokens that may come next."""

    @abc.abstractmethod
    def _take(self, index: int) -> bool:
        """Go on with a token, if it may come next."""

    @abc.abstractmethod
    def _may_end(self) -> bool:
        """Whether the text may end here."""

    @abc.abstractmethod
    def _is_complete(self) -> bool:
        """Whether the text may end here and nothing may come."""

    @abc.abstractmethod
    def _forced(self) -> list[int]:
        """As `forced`, for a text that is not finished."""

    def _reason(self) -> str:
        return "The tokenizer can't spell what the constraint asks for."
