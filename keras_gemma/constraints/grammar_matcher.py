"""A text that follows a grammar of llguidance's."""

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_gemma.constraints.constraint import Matcher
from keras_gemma.constraints.vocabulary import Vocabulary

_TOKENIZERS: weakref.WeakKeyDictionary[Vocabulary, Any] = weakref.WeakKeyDictionary()


def library() -> Any:
    """The module llguidance.

    Raises:
        ImportError: it is not installed; how to install it.
    """
    try:
        import llguidance
    except ImportError as error:
        raise ImportError(
            "Regular expressions, JSON schemas and grammars need the package llguidance: "
            'pip install "keras-gemma[constraints]"'
        ) from error
    return llguidance


def problem_of(grammar: str) -> str:
    """What is wrong with a grammar, whatever the tokenizer; empty if nothing is."""
    return _brief(library().LLMatcher.validate_grammar(grammar, None, limits=_limits()))


def first_state(vocabulary: Vocabulary, grammar: str) -> Any:
    """An `LLMatcher` at the beginning of a text."""
    llguidance = library()
    if vocabulary not in _TOKENIZERS:
        _TOKENIZERS[vocabulary] = llguidance.LLTokenizer(_Tokens(vocabulary))
    return llguidance.LLMatcher(_TOKENIZERS[vocabulary], grammar, log_level=0, limits=_limits())


def error_of(state: Any) -> str:
    """What has gone wrong with an `LLMatcher`; empty if nothing has."""
    return _brief(state.get_error())


def _brief(message):
    return message.removesuffix("\n<non-verbose/>")


def _limits():
    # Its messages else end in the state of the parser, a page of it.
    return library().LLParserLimits(verbose_errors=False)


class _Tokens:
    """A vocabulary as llguidance asks for it.

    Its end token is one behind all others: ours may end a text where the grammar says it may, and
    a grammar can't name them.
    """

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, vocabulary):
        self._vocabulary = weakref.ref(vocabulary)  # llguidance's objects are no part of cycles
        self.tokens = [*vocabulary.tokens, b"<end of text>"]
        self.eos_token_id = len(vocabulary.tokens)
        self.special_token_ids = [self.eos_token_id]

    def __call__(self, text: str) -> list[int]:
        return self._vocabulary().encode(text)


class GrammarMatcher(Matcher):
    """Follows one text by an `LLMatcher`.

    Args:
        start: an `LLMatcher` at the beginning of a text: a copy, or one that shares nothing. Copies
            share a table of states that only grows and has a limit. Where the texts of others have
            filled it, this text is read again by one that stands alone.
    """

    def __init__(
        self,
        start: Callable[[bool], Any],
        tokenizer: Any,
        vocabulary_size: int | None = None,
        end_token_ids: Any = None,
    ):
        super().__init__(tokenizer, vocabulary_size, end_token_ids)
        self._start = start
        self._state = start(False)
        self._alone = False
        self._taken: list[int] = []
        ids = len(self.vocabulary.tokens) + 1
        self._words = np.zeros(-(-ids // 32), "uint32")
        self._place = self._words.ctypes.data, self._words.nbytes

    def _mark_next(self, words):
        self._ask("unsafe_compute_mask_ptr", *self._place)
        if not self._state.is_error():
            spelling = self.vocabulary.spelling
            np.bitwise_and(self._words[: len(spelling)], spelling, out=words[: len(spelling)])

    def _take(self, index):
        taken = self._ask("try_consume_tokens", [index]) == 1
        if error := error_of(self._state):
            raise RuntimeError(f"No token can be added to {self._shown()}. {error}")
        if taken:
            self._taken.append(index)
        return taken

    def _may_end(self):
        return self._ask("is_accepting")

    def _is_complete(self):
        return self._state.is_stopped() and self._ask("is_accepting")

    def _forced(self):
        return self._ask("compute_ff_tokens")

    def _reason(self):
        return error_of(self._state) or super()._reason()

    def _ask(self, question: str, *arguments: Any) -> Any:
        answer = getattr(self._state, question)(*arguments)
        if self._state.is_error() and not self._alone:
            self._alone = True
            self._state = self._start(True)
            self._state.consume_tokens(self._taken)
            answer = getattr(self._state, question)(*arguments)
        return answer
