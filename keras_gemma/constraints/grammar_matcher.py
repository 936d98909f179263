"""A text that follows a grammar of llguidance's."""

import weakref
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
    return library().LLMatcher.validate_grammar(grammar, None, limits=_limits())


def first_state(vocabulary: Vocabulary, grammar: str) -> Any:
    """An `LLMatcher` at the beginning of a text."""
    llguidance = library()
    if vocabulary not in _TOKENIZERS:
        _TOKENIZERS[vocabulary] = llguidance.LLTokenizer(_Tokens(vocabulary))
    return llguidance.LLMatcher(_TOKENIZERS[vocabulary], grammar, log_level=0, limits=_limits())


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
    """Follows one text by an `LLMatcher`, which is its own from here on."""

    def __init__(self, state: Any, tokenizer, vocabulary_size=None, end_token_ids=None):
        super().__init__(tokenizer, vocabulary_size, end_token_ids)
        self._state = state
        ids = len(self.vocabulary.tokens) + 1
        self._words = np.zeros(-(-ids // 32), "uint32")
        self._place = self._words.ctypes.data, self._words.nbytes

    def _mark_next(self, words):
        self._state.unsafe_compute_mask_ptr(*self._place)
        if not self._state.is_error():
            spelling = self.vocabulary.spelling
            np.bitwise_and(self._words[: len(spelling)], spelling, out=words[: len(spelling)])

    def _take(self, index):
        return self._state.try_consume_tokens([index]) == 1

    def _may_end(self):
        return self._state.is_accepting()

    def _is_complete(self):
        return self._state.is_stopped() and self._state.is_accepting()

    def _forced(self):
        return self._state.compute_ff_tokens()

    def _reason(self):
        return self._state.get_error() or super()._reason()
