"""Regular expressions and grammars: what comes of any allowed tokens, and what is refused."""

import ast
import re
import sys
import unicodedata

import numpy as np
import pytest
from walks import ids_of, walk

from keras_gemma.constraints import Grammar, JSONSchema, Regex

pytestmark = pytest.mark.once
llguidance = pytest.importorskip("llguidance")

SUM = r"""
start: sum
sum: term (("+" | "-") term)*
term: factor ("*" factor)*
factor: NUMBER | "(" sum ")"
NUMBER: /[1-9][0-9]{0,3}/
%ignore / /
"""


@pytest.mark.parametrize(
    "pattern",
    [
        r"[a-z]+",
        r"[A-Z][a-z]+, [0-9]{4}",
        r"(yes|no|perhaps)!*",
        r"[0-9]{3}-[0-9]{4}",
        r"a{3,5}b?",
        r"(?i)fox",
        r".*",
        r"(.|\n){10}",
        r"[^\x00-\x7f]{1,6}",
        r"größe|日本|😀+",
        r"[a-z0-9_]+(\.[a-z0-9_]+)*@[a-z0-9_]+\.(com|org)",
        r"[a-z-]{2}\s[^ ]",
        r" two  spaces ",
        r"/a/",
        r"",
    ],
)
@pytest.mark.parametrize("name", ["tiny", "gemma"])
def test_a_text_matches_its_expression(pattern, name, request):
    tokenizer = request.getfixturevalue(name)
    constraint, random = Regex(pattern), np.random.default_rng(0)
    for _ in range(8 if name == "tiny" else 2):
        ids = walk(constraint.matcher(tokenizer), tokenizer, random)
        text = tokenizer.detokenize(ids)
        assert re.fullmatch(pattern, text), (text, ids)


def test_a_text_of_a_grammar_can_be_parsed(tiny):
    constraint, random = Grammar(SUM), np.random.default_rng(0)
    texts = [
        tiny.detokenize(walk(constraint.matcher(tiny), tiny, random, pull=0.2)) for _ in range(60)
    ]
    assert any("(" in text for text in texts) and any("*" in text for text in texts)
    for text in texts:
        ast.parse(text.strip(), mode="eval")


def test_brackets_are_closed(tiny):
    constraint = Grammar('start: "(" start ")" start | ""')
    random = np.random.default_rng(1)
    texts = [
        tiny.detokenize(walk(constraint.matcher(tiny), tiny, random, pull=0.05)) for _ in range(30)
    ]
    assert max(map(len, texts)) > 6
    for text in texts:
        while "()" in text:
            text = text.replace("()", "")
        assert text == ""


def test_a_grammar_may_hold_a_schema(tiny):
    constraint = Grammar(
        'start: "call " %json {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": false} "!"'
    )
    text = tiny.detokenize(walk(constraint.matcher(tiny), tiny, np.random.default_rng(2)))
    assert re.fullmatch(r'call \{\s*"n"\s*:\s*-?\d+\s*\}!', text)


def test_the_end_may_not_come_before_the_grammar_says_so(tiny):
    # `stop` would let the grammar itself take the model's end token for a part of the text.
    matcher = Grammar('start: word "."\nword[stop=""]: /[a-z]*/').matcher(tiny)
    ends = {tiny.end_token_id, tiny.end_of_turn_token_id}
    for _ in range(5):
        assert ends.isdisjoint(ids_of(matcher.allowed()))
        matcher.accept(tiny.token_to_id("a"))
    with pytest.raises(ValueError, match="may not end"):
        matcher.accept(tiny.end_token_id)


@pytest.mark.parametrize(
    "make, source, told",
    [
        (Regex, "(a", "regular expression.*unclosed|regular expression.*paren"),
        (Regex, "[z-a]", "regular expression"),
        (Regex, "a(?=b)", "regular expression.*look"),
        (Regex, r"(a)\1", "regular expression.*backref"),
        (Regex, r"[^\s\S]", "regular expression"),
        (Grammar, "", "grammar"),
        (Grammar, "sum: NUMBER", "grammar.*"),
        (Grammar, "start: NUMBER", "grammar.*NUMBER"),
        (Grammar, 'start: "a', "grammar"),
        (Grammar, "start: /[^\\s\\S]/", "grammar"),
        (Grammar, 'start: "a" start', "grammar"),
        (Grammar, "start: <no_such_token>", "grammar.*no_such_token"),
        (Grammar, "start: <end_of_turn>", "grammar.*end_of_turn"),
    ],
    ids=lambda each: each if isinstance(each, str) else each.__name__,
)
def test_a_wrong_source_is_refused_and_told_of(make, source, told, tiny):
    with pytest.raises(ValueError, match=f"(?s){told}"):
        make(source).matcher(tiny)


@pytest.mark.parametrize("name", ["<bos>", "<end_of_turn>", "<start_of_turn>"])
def test_a_grammar_can_not_ask_for_a_control_token_by_its_number(name, tiny):
    grammar = f'start: <[{tiny.control_tokens[name]}]> "a"'
    with pytest.raises(ValueError, match="grammar can't be used"):
        Grammar(grammar).matcher(tiny)


@pytest.mark.parametrize("pattern", [r"\d{4}", r"\w{4}", r"\s{4}"])
def test_classes_are_those_of_every_script(pattern, tiny):
    letter, random = pattern.removesuffix("{4}"), np.random.default_rng(0)
    for _ in range(30):
        text = tiny.detokenize(walk(Regex(pattern).matcher(tiny), tiny, random))
        assert len(text) == 4
        for each in text:  # Python's Unicode may be older, and its \w lacks marks and joiners
            known = unicodedata.category(each) not in ("Cn", "Mn", "Mc", "Me", "Cf", "So")
            assert re.fullmatch(letter, each) or not known, ascii(each)


def test_texts_of_others_that_filled_the_shared_states_do_no_harm(tiny, monkeypatch):
    """By the limit of 300 states, which a few texts reach together and none of them alone."""
    monkeypatch.setattr(
        "keras_gemma.constraints.grammar_matcher._limits",
        lambda: llguidance.LLParserLimits(verbose_errors=False, max_lexer_states=300),
    )
    constraint, random = Regex("[ab]*a[ab]{60}c"), np.random.default_rng(0)
    matchers = [constraint.matcher(tiny) for _ in range(6)]
    texts = ["", *([""] * 5)]
    for place in range(90):
        for i, matcher in enumerate(matchers):
            index = int(random.choice(ids_of(matcher.allowed())))
            if place < 60 and not matcher.finished:
                matcher.accept(index)
                texts[i] += tiny.detokenize([index])
    for text, matcher in zip(texts, matchers, strict=True):
        assert set(text) <= set("abc") and len(text) > 10
        assert bytes(matcher._text).decode() == text
    assert ids_of(constraint.matcher(tiny).allowed()).size


@pytest.mark.parametrize("make", [Regex, Grammar])
@pytest.mark.parametrize("source", [None, 3, b"a+", re.compile("a+")], ids=repr)
def test_what_is_no_text_is_refused(make, source):
    with pytest.raises(TypeError, match="is a text, not"):
        make(source)


@pytest.mark.parametrize(
    "make, source",
    [
        (Regex, "a" * 600_000),
        (
            Grammar,
            "start: "
            + " ".join(f"r{i}" for i in range(3000))
            + "\n"
            + "\n".join(f'r{i}: "a{i}" | r{(i + 1) % 3000} {"b" * 0}' for i in range(3000)),
        ),
        (JSONSchema, {"const": "a" * 600_000}),
    ],
    ids=["regex", "grammar", "schema"],
)
def test_what_is_too_large_is_told_of(make, source, tiny):
    with pytest.raises(
        ValueError, match="(?s)can't be used: .*(large|big|complex|limit|fuel|too many)"
    ):
        make(source).matcher(tiny)


def test_what_the_tokenizer_cant_spell_is_told_of_before_the_first_token(without_bytes):
    for constraint in (Grammar('start: "日本"'), Regex("[日本]+ fox"), JSONSchema({"const": 7})):
        with pytest.raises(ValueError, match="can't be used: No token may follow.*can't spell"):
            constraint.matcher(without_bytes)


def test_what_it_cant_spell_further_on_is_told_of_there(without_bytes):
    matcher = Grammar('start: "fox" /[日]/').matcher(without_bytes)
    with pytest.raises(RuntimeError, match="No token may follow the text 'fox'.*can't spell"):
        while True:
            matcher.accept(ids_of(matcher.allowed())[0])


def test_without_llguidance_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    for make, source in ((Regex, "a"), (Grammar, 'start: "a"'), (JSONSchema, {})):
        with pytest.raises(ImportError, match=r'pip install "keras-gemma\[constraints\]"'):
            make(source)
