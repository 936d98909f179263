"""One of a few texts, whatever tokens it is cut into."""

import os.path
import weakref
from bisect import bisect_left
from collections.abc import Iterable
from typing import Any

import numpy as np

from keras_gemma.constraints.constraint import Constraint, Matcher
from keras_gemma.constraints.vocabulary import Vocabulary


class Choices(Constraint):
    """One of these texts, and nothing else.

        Choices(["yes", "no", "perhaps"])

    Every way to cut a text into tokens is right, not only the tokenizer's own. Where one choice
    begins another, as `""` begins all, the text may end there or go on.

    Args:
        choices: the texts, at least one.

    Raises:
        TypeError: if one is not a string, or `choices` is a string itself.
        ValueError: if there is none, or one is no Unicode.
    """

    def __init__(self, choices: Iterable[str]):
        if isinstance(choices, (str, bytes)):
            raise TypeError(
                f"A list of texts was awaited, not the text {choices!r}. For one choice, give a "
                "list of one."
            )
        self.choices = tuple(choices)
        if not self.choices:
            raise ValueError("Choices are empty, so no text is right. Give at least one.")
        self._texts = sorted({_encoded(text, i) for i, text in enumerate(self.choices)})
        self._next: weakref.WeakKeyDictionary[Vocabulary, dict] = weakref.WeakKeyDictionary()

    def matcher(
        self,
        tokenizer: Any,
        vocabulary_size: int | None = None,
        end_token_ids: Iterable[int] | None = None,
    ) -> Matcher:
        """What follows one text as it is generated: see `Constraint.matcher`."""
        made = _ChoiceMatcher(self, tokenizer, vocabulary_size, end_token_ids)
        vocabulary = made.vocabulary
        if vocabulary not in self._next:
            for text in self._texts:
                if not vocabulary.can_spell(text):
                    raise ValueError(f"The tokenizer can't spell the choice {text.decode()!r}.")
            self._next[vocabulary] = {}
        return made

    def starting_with(self, beginning: bytes) -> list[bytes]:
        """The choices that start so, in order, as UTF-8."""
        # No UTF-8 holds the byte 0xFF, so this is above all that start so.
        end = bisect_left(self._texts, beginning + b"\xff")
        return self._texts[bisect_left(self._texts, beginning) : end]

    def next_ids(self, vocabulary: Vocabulary, beginning: bytes) -> np.ndarray:
        """The tokens that lead from here towards a choice; found once for each beginning."""
        known = self._next[vocabulary]
        if beginning not in known:
            at, pieces = len(beginning), set()
            for text in self.starting_with(beginning):
                for end in range(at + 1, min(len(text), at + vocabulary.longest) + 1):
                    if vocabulary.can_spell(text[end:]):
                        pieces.add(text[at:end])
            ids = [index for piece in pieces for index in vocabulary.ids_of_model(piece)]
            known[beginning] = np.array(sorted(ids), "int64")
        return known[beginning]

    def __repr__(self):
        return f"Choices({list(self.choices)!r})"


def _encoded(text, place):
    if not isinstance(text, str):
        raise TypeError(f"Choice {place} is {text!r}; a string was awaited.")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"Choice {place}, {text!a}, is no Unicode text: {error}.") from None


class _ChoiceMatcher(Matcher):
    def __init__(self, choices, *arguments):
        super().__init__(*arguments)
        self._choices = choices

    def _next_ids(self):
        return self._choices.next_ids(self.vocabulary, bytes(self._text))

    def _mark_next(self, words):
        ids = self._next_ids()
        np.bitwise_or.at(words, ids >> 5, np.left_shift(1, ids & 31).astype("uint32"))

    def _take(self, index):
        return index in self._next_ids()

    def _rests(self):
        return [text[len(self._text) :] for text in self._choices.starting_with(bytes(self._text))]

    def _may_end(self):
        return self._rests()[0] == b""

    def _is_complete(self):
        return self._rests() == [b""]

    def _forced(self):
        rests = self._rests()
        if not os.path.commonprefix([rests[0], rests[-1]]):  # in order, so all others lie between
            return []
        try:
            cuts = [self.vocabulary.encode(rest.decode()) for rest in rests]
        except UnicodeDecodeError:  # within a character
            return []
        return os.path.commonprefix(cuts)
