"""Regular expressions, JSON schemas and context-free grammars, by llguidance."""

import json
import re
import weakref
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np

from keras_gemma.constraints.constraint import Constraint, Matcher
from keras_gemma.constraints.grammar_matcher import (
    GrammarMatcher,
    error_of,
    first_state,
    library,
    problem_of,
)
from keras_gemma.constraints.number_bounds import with_safe_bounds
from keras_gemma.constraints.vocabulary import Vocabulary, vocabulary_of

# Spaces and newlines between two parts of a JSON text: a newline and the indent of ten levels of
# three. Without a bound, a model that likes them may go on for ever.
_MOST_WHITESPACE = 31
# llguidance follows rules that call each other by recursion, and takes the process down with it from
# some 3,000 on.
_MOST_RULES = 1000


class _Language(Constraint):
    """Texts of a language that llguidance knows."""

    kind = ""

    def __init__(self, source: Any, grammar: str):
        self.source = source
        self._grammar = grammar
        self._check(problem_of(grammar))
        self._first: weakref.WeakKeyDictionary[Vocabulary, Any] = weakref.WeakKeyDictionary()
        self._tried: weakref.WeakSet[Vocabulary] = weakref.WeakSet()

    def matcher(
        self,
        tokenizer: Any,
        vocabulary_size: int | None = None,
        end_token_ids: Iterable[int] | None = None,
    ) -> Matcher:
        """What follows one text as it is generated: see `Constraint.matcher`."""
        vocabulary = vocabulary_of(tokenizer)
        settings = tokenizer, vocabulary_size, end_token_ids
        if vocabulary not in self._tried:
            self._try(vocabulary, settings)
            self._tried.add(vocabulary)
        return GrammarMatcher(partial(self._start, vocabulary), *settings)

    def _try(self, vocabulary, settings):
        """What is too large, or can't be spelled, may show only where a token is added."""
        first = first_state(vocabulary, self._grammar)
        self._check(error_of(first))
        state = first.deep_copy()
        trial = GrammarMatcher(lambda alone: state, *settings)
        try:
            bits = np.unpackbits(trial.allowed().view("uint8"), bitorder="little")
            trial.accept(int(bits.argmax()))
        except RuntimeError as error:
            self._check(str(error))
        self._first[vocabulary] = first

    def _start(self, vocabulary, alone):
        if alone:
            self._first.pop(vocabulary, None)
            return first_state(vocabulary, self._grammar)
        first = self._first.get(vocabulary) or first_state(vocabulary, self._grammar)
        self._first[vocabulary] = first
        return first.deep_copy()

    def _check(self, problem: str):
        if problem:
            raise ValueError(f"This {self.kind} can't be used: {problem}")

    def __repr__(self):
        return f"{type(self).__name__}({self.source!r})"


class Regex(_Language):
    r"""A text that a regular expression matches from end to end.

        Regex(r"[A-Z][a-z]+, \d{4}")

    The syntax is that of Rust's `regex`: Python's without backreferences and looking around.
    As in Python, `\d`, `\w` and `\s` take the digits, letters and spaces of every script, here of
    llguidance's version of Unicode. The ten digits alone are `[0-9]`.

    Raises:
        ImportError: llguidance is not installed.
        ValueError: the expression has an error, matches nothing or is too large.
    """

    kind = "regular expression"

    def __init__(self, pattern: str):
        _check_is_text(pattern, self.kind)
        super().__init__(pattern, library().LLMatcher.grammar_from_regex(pattern))


class JSONSchema(_Language):
    """A JSON text that is valid under a schema.

        JSONSchema({"type": "object", "properties": {"age": {"type": "integer", "minimum": 0}},
                    "required": ["age"], "additionalProperties": False})

    The drafts up to 2020-12; a keyword or format that can't be kept to is an error, not passed
    over. Properties come in the order of the schema. `True` and `{}` stand for any JSON.

    A number with bounds is written without an exponent and without zeros at its end. A bound that
    is not part of its range (`exclusiveMinimum`) holds for the number as it is written: a float
    near it may round to it. A text that is cut off by a limit of tokens is no JSON.

    Args:
        schema: a dict, as Pydantic's `model_json_schema()` makes, or its JSON text.
        compact: whether to leave no room for spaces and newlines between the parts, which takes
            the fewest tokens.

    Raises:
        ImportError: llguidance is not installed.
        TypeError: the schema is no dict and no text.
        ValueError: the schema is no JSON, asks for something unknown, allows nothing or is too
            large.
    """

    kind = "JSON schema"

    def __init__(self, schema: Mapping[str, Any] | bool | str, *, compact: bool = False):
        text = _json_text(schema)
        settings: dict[str, Any] = {"whitespace_flexible": False}
        if not compact:
            settings["whitespace_pattern"] = rf"[ \n\r\t]{{1,{_MOST_WHITESPACE}}}"
        if text == "true":
            text = "{}"
        given = {"defaults": settings} if text != "false" else {}
        super().__init__(schema, library().LLMatcher.grammar_from_json_schema(text, **given))


class Grammar(_Language):
    """A text of a context-free grammar, which is written as for the parser Lark.

        Grammar('''
            start: sum
            sum: NUMBER ("+" NUMBER)*
            NUMBER: /[0-9]+/
        ''')

    Names in capitals are read as one regular expression each, the longest match first. The rest is
    told in llguidance's manual, `docs/syntax.md` of its repository.

    Each rule needs a way to its end. `list: "a" list | "b" list` has none, and is not found out:
    its texts go on until they are cut off.

    Raises:
        ImportError: llguidance is not installed.
        ValueError: the grammar has an error, allows nothing or is too large.
    """

    kind = "grammar"

    def __init__(self, lark: str):
        _check_is_text(lark, self.kind)
        if (rules := len(re.findall(r"^\s*[?!]?\w[^\n:]*:", lark, re.MULTILINE))) > _MOST_RULES:
            self._check(f"{rules} rules are too large a number, at most {_MOST_RULES} can be read.")
        super().__init__(lark, json.dumps({"grammars": [{"lark_grammar": lark}]}))


def _check_is_text(source, kind):
    if not isinstance(source, str):
        raise TypeError(f"A {kind} is a text, not {type(source).__name__}.")


def _json_text(schema):
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except ValueError as error:
            raise ValueError(f"This JSON schema is no JSON: {error}.") from None
    if not isinstance(schema, (Mapping, bool)):
        raise TypeError(
            f"A JSON schema is a dict or its JSON text, not {type(schema).__name__} {schema!r}."
        )
    try:
        return json.dumps(with_safe_bounds(schema), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"This JSON schema is no JSON: {error}.") from None
