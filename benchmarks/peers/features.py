"""What is measured of keras_gemma alone, beside itself without the feature.

Each returns the figure with it, and `of_…`: how many times that is the one without.
"""

import sys
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace

import timing

# Enough for a text of some thousand tokens, whatever the weights are rounded to: what is remembered
# by default is a share of their bytes.
REMEMBERED = 2**28
PEOPLE = {
    "type": "array",
    "minItems": 1000,  # longer than any answer here, so that none ends early
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 40},
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "email": {"type": "string", "pattern": r"^\w+@\w+\.(com|org)$"},
            "kind": {"enum": ["friend", "colleague", "stranger"]},
            "tags": {"type": "array", "items": {"type": "string", "maxLength": 20}, "maxItems": 5},
        },
        "required": ["name", "age", "email", "kind", "tags"],
        "additionalProperties": False,
    },
}
_SPAN = 40  # tokens, of which a part is copied


def second_turn(session: timing.Session, **arguments) -> dict:
    """As of others, with room for the history."""
    with _compiled(session, prefix_bytes=REMEMBERED) as other:
        return timing.second_turn(other, **arguments)


def constrained(session: timing.Session, prompt: int, short: int, long: int) -> dict:
    """Tokens a second of an answer that is JSON of a schema."""
    from keras_gemma.constraints import JSONSchema

    if session.peer.model.preprocessor is None:
        session.peer.model.preprocessor = _preprocessor(session.vocabulary)
    arguments = {"prompt": prompt, "rows": 1, "short": short, "long": long}
    free = timing.decode(session, **arguments)["tokens_per_second"]
    bound = _anew(session, constraint=JSONSchema(PEOPLE))
    rate = timing.decode(bound, **arguments)["tokens_per_second"]
    return {"tokens_per_second": rate, "of_free": rate / free}


def prompt_lookup(session: timing.Session, prompt: int, short: int, long: int, copied: int) -> dict:
    """Tokens a second of an answer of which `copied` in 40 tokens are the prompt's."""
    from keras_gemma.samplers import GreedySampler

    rates = []
    sampler = GreedySampler(steps=[partial(told, copied, prompt * 3 // 4)])
    for draft in (None, "prompt_lookup"):
        with _compiled(session, draft=draft, sampler=sampler, prefix_bytes=0) as other:
            found = timing.decode(other, prompt, 1, short, long)
        rates.append(found["tokens_per_second"])
    return {"tokens_per_second": rates[1], "of_plain": rates[1] / rates[0]}


def told(copied, back, logits, context):
    """Logits by which a text quotes what stood `back` places before, then goes on with new tokens.

    Random weights repeat one token for ever, which is no measure of guessing.
    """
    from keras import ops

    vocabulary, place = logits.shape[-1], context.lengths
    source = ops.maximum(place - back, 0)[:, None]
    quoted = ops.take_along_axis(context.token_ids, source, axis=1)[:, 0]
    new = place * 7919 % vocabulary  # a prime: no token of a text comes twice
    token = ops.where(place % _SPAN < copied, quoted, new)
    wanted = ops.arange(vocabulary, dtype="int32")[None] == token[:, None]
    return ops.where(wanted, 1e4, logits)


FEATURES = {f.__name__: f for f in (second_turn, constrained, prompt_lookup)}


@contextmanager
def _compiled(session, **options):
    """A session of the model with other arguments of `compile`; no program outlives them."""
    try:
        with session.peer.compiled(**options):
            yield _anew(session)
    finally:
        session.warm.clear()


def _anew(session, **keywords):
    """A session that was asked nothing, with keywords for `generate`."""
    peer = SimpleNamespace(generate=partial(session.peer.generate, **keywords))
    return timing.Session(peer, session.clock, session.vocabulary)


@cache
def _preprocessor(vocabulary):
    """Gemma's own vocabulary, which the tests fetch; for a small model the bundled one."""
    from keras_gemma.text import GemmaCausalLMPreprocessor, GemmaTokenizer

    tokenizer = GemmaTokenizer.from_preset("gemma_tiny_en")
    if vocabulary >= 256_000:
        sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))
        from real_vocabularies import path_of

        tokenizer = GemmaTokenizer(path_of("gemma"))
    return GemmaCausalLMPreprocessor(tokenizer)
