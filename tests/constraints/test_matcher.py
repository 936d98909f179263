"""What every constraint's matcher keeps to, whatever it allows."""

import numpy as np
import pytest
from walks import ids_of, walk

from keras_gemma.constraints import Choices, Grammar, JSONSchema, Regex

pytestmark = pytest.mark.once
pytest.importorskip("llguidance")

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 9}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
CONSTRAINTS = {
    "choices": lambda: Choices(["yes", "yesterday", "größe", "😀"]),
    "regex": lambda: Regex("[a-zß]{1,3}( [0-9]+)*"),
    "schema": lambda: JSONSchema(PERSON),
    "grammar": lambda: Grammar('start: "<" word ">" \nword: /[a-z]+/ | "(" word ")"'),
}


@pytest.fixture(params=CONSTRAINTS)
def constraint(request):
    return CONSTRAINTS[request.param]()


def test_what_is_allowed_is_accepted_and_nothing_else_is(constraint, tiny):
    """At each place of a few texts: one token that may come, and some that may not."""
    random = np.random.default_rng(0)
    ends = {tiny.end_token_id, tiny.end_of_turn_token_id}
    for _ in range(4):
        matcher = constraint.matcher(tiny)
        while not matcher.finished:
            words = matcher.allowed()
            allowed = set(ids_of(words).tolist())
            others = sorted(set(range(tiny.vocabulary_size())) - allowed)
            # Where the letters are certain, other cuts of them are taken, too.
            for index in [] if matcher.forced() else random.choice(others, 20):
                with pytest.raises(ValueError, match="may not"):
                    matcher.accept(index)
            assert np.array_equal(matcher.allowed(), words)
            matcher.accept(int(random.choice(sorted(allowed))))
        assert set(ids_of(matcher.allowed()).tolist()) == ends


def test_control_tokens_never_come_inside(constraint, any_tokenizer):
    ends = {any_tokenizer.end_token_id, any_tokenizer.end_of_turn_token_id}
    silent = {*any_tokenizer.control_tokens.values(), any_tokenizer.unk_token_id} - ends
    matcher = constraint.matcher(any_tokenizer)
    random = np.random.default_rng(3)
    for _ in range(12):
        allowed = ids_of(matcher.allowed())
        assert silent.isdisjoint(allowed.tolist())
        for index in (any_tokenizer.start_token_id, any_tokenizer.unk_token_id):
            with pytest.raises(ValueError, match="may not follow"):
                matcher.accept(index)
        matcher.accept(random.choice(allowed))


def test_after_the_end_there_is_only_the_end(constraint, tiny):
    matcher = constraint.matcher(tiny)
    walk(matcher, tiny, np.random.default_rng(1))
    for index in (tiny.end_of_turn_token_id, tiny.end_token_id):
        matcher.accept(index)
        assert matcher.finished
        assert matcher.forced() == []
        assert set(ids_of(matcher.allowed())) == {tiny.end_token_id, tiny.end_of_turn_token_id}
    with pytest.raises(ValueError, match="may not follow"):
        matcher.accept(tiny.token_to_id("a"))


def test_ids_that_the_tokenizer_lacks_are_never_allowed(constraint, tiny):
    size = tiny.vocabulary_size()
    for model in (size, size + 1, size + 77):
        matcher = constraint.matcher(tiny, vocabulary_size=model)
        words = matcher.allowed()
        assert words.shape == (-(-model // 32),)
        assert max(ids_of(words)) < size
        assert np.array_equal(ids_of(words), ids_of(constraint.matcher(tiny).allowed()))
        for index in (-1, size, model):
            with pytest.raises(ValueError, match="may not follow"):
                matcher.accept(index)


def test_a_vocabulary_larger_than_the_models_is_refused(constraint, tiny):
    with pytest.raises(ValueError, match="vocabulary_size=100 is less than the"):
        constraint.matcher(tiny, vocabulary_size=100)


def test_matchers_do_not_know_of_each_other(constraint, tiny):
    one, other = constraint.matcher(tiny), constraint.matcher(tiny)
    before = other.allowed()
    walk(one, tiny, np.random.default_rng(5))
    assert np.array_equal(other.allowed(), before)
    again = constraint.matcher(tiny)
    assert np.array_equal(again.allowed(), before)


def test_the_end_is_what_the_caller_says_it_is(tiny):
    full_stop = tiny.token_to_id(".")
    matcher = Regex("[a-z.]+").matcher(tiny, end_token_ids=[full_stop])
    assert full_stop not in ids_of(matcher.allowed())
    matcher.accept(tiny.token_to_id("a"))
    allowed = ids_of(matcher.allowed())
    assert full_stop in allowed and tiny.end_token_id not in allowed
    matcher.accept(full_stop)
    assert matcher.finished
    with pytest.raises(ValueError, match="outside"):
        Regex("a").matcher(tiny, end_token_ids=[10**6])


def test_forced_tokens_spell_what_comes_next_and_are_allowed(any_tokenizer):
    matcher = JSONSchema(PERSON, compact=True).matcher(any_tokenizer)
    forced, taken = matcher.forced(), []
    assert any_tokenizer.detokenize(forced) in '{"name":"'
    assert len(forced) > 1
    for index in forced:
        assert ids_of(matcher.allowed()).tolist() == [index]
        matcher.accept(index)
        taken.append(index)
    assert any_tokenizer.encode('{"name":"Ada"')[: len(taken)] == taken


def test_forced_tokens_are_never_the_end(tiny):
    matcher = Choices(["a.b"]).matcher(tiny, end_token_ids=[tiny.token_to_id(".")])
    cut = tiny.encode("a.b")
    assert matcher.forced() == cut[: cut.index(tiny.token_to_id("."))]


def test_other_cuts_of_forced_letters_are_taken(tiny):
    matcher = Regex("forest").matcher(tiny)
    for letter in "forest":
        matcher.accept(tiny.token_to_id(letter))
    assert matcher.finished


def test_a_matcher_outlives_the_name_of_its_tokenizer(constraint):
    from vocabularies import TURNS, train

    from keras_gemma.text import GemmaTokenizer

    matcher = constraint.matcher(GemmaTokenizer(train([*TURNS, "\n"])))
    random = np.random.default_rng(6)
    while not matcher.finished:
        matcher.accept(random.choice(ids_of(matcher.allowed())))
