"""What comes of any schema, by any allowed tokens, is JSON and valid under it."""

import json
import random
from decimal import Decimal

import jsonschema
import numpy as np
import pytest
from random_schemas import random_schema
from walks import walk

from keras_gemma.constraints import JSONSchema

pytestmark = pytest.mark.once
pytest.importorskip("llguidance")


def check(schema, tokenizer, seed, compact=False):
    matcher = JSONSchema(schema, compact=compact).matcher(tokenizer)
    text = tokenizer.detokenize(walk(matcher, tokenizer, np.random.default_rng(seed)))
    json.loads(text)
    # Numbers as they are written: a float would be rounded onto a bound that it must not touch.
    value, exact = (json.loads(s, parse_float=Decimal) for s in (text, json.dumps(schema)))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(exact).validate(value)
    return text


def schemas(count, seed):
    chance = random.Random(seed)
    return [random_schema(chance) for _ in range(count)]


def test_a_thousand_random_schemas(tiny):
    all_of_them = enumerate(schemas(1000, seed=2))
    texts = {check(schema, tiny, i, i % 2 == 0) for i, schema in all_of_them}
    assert len(texts) > 500


def test_gemmas_own_vocabulary(gemma):
    for i, schema in enumerate(schemas(10, seed=3)):
        check(schema, gemma, i, i % 2 == 0)


def test_a_schema_that_refers_to_itself(tiny):
    tree = {
        "$ref": "#/$defs/tree",
        "$defs": {
            "tree": {
                "type": "object",
                "properties": {
                    "value": {"type": "integer"},
                    "branches": {"type": "array", "items": {"$ref": "#/$defs/tree"}},
                },
                "required": ["value", "branches"],
                "additionalProperties": False,
            }
        },
    }
    depths = [check(tree, tiny, seed).count("branches") for seed in range(8)]
    assert max(depths) > 1


@pytest.mark.parametrize("schema", [True, {}, "true", "{}"], ids=str)
def test_any_json(schema, tiny):
    for seed in range(5):
        matcher = JSONSchema(schema).matcher(tiny)
        json.loads(tiny.detokenize(walk(matcher, tiny, np.random.default_rng(seed))))


def test_a_schema_may_come_as_text(tiny):
    schema = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}
    by_text, by_dict = (JSONSchema(each).matcher(tiny) for each in (json.dumps(schema), schema))
    for index in tiny.encode('{"a": 1}'):
        assert np.array_equal(by_text.allowed(), by_dict.allowed())
        by_text.accept(index)
        by_dict.accept(index)


def test_whitespace_has_a_bound_and_compact_has_none(tiny):
    schema = {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2}
    for text, compact, right in [
        ("[1,2]", True, True),
        ("[1, 2]", True, False),
        ("[1, 2]", False, True),
        ("[\n    1,\n    2\n]", False, True),
        (f"[1,{' ' * 31}2]", False, True),
        (f"[1,{' ' * 32}2]", False, False),
    ]:
        matcher = JSONSchema(schema, compact=compact).matcher(tiny)
        assert accepts(matcher, tiny.encode(text)) == right, text


def accepts(matcher, ids):
    try:
        for index in ids:
            matcher.accept(index)
    except ValueError:
        return False
    return matcher.finished


@pytest.mark.parametrize(
    "schema, told",
    [
        ({"type": "strnig"}, "strnig"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "minimum"),
        ({"enum": []}, "satisf"),
        (False, "false|satisf"),
        ({"type": "object", "required": ["a"], "properties": {"a": False}}, "satisf"),
        ({"type": "string", "pattern": "(a"}, "pattern|regex"),
        ({"type": "string", "format": "smell"}, "smell"),
        ({"not": {"type": "string"}}, "not"),
        ({"$ref": "#/$defs/missing"}, "missing"),
        ("{'type': 'string'}", "no JSON"),
        ({"const": float("nan")}, "no JSON"),
        ({"const": {1, 2}}, "no JSON"),
    ],
    ids=str,
)
def test_a_wrong_schema_is_refused_and_told_of(schema, told):
    with pytest.raises(ValueError, match=f"(?s)JSON schema.*({told})"):
        JSONSchema(schema)


@pytest.mark.parametrize("schema", [None, 3, ["string"], "3", "[]", "null"], ids=str)
def test_what_is_no_schema_is_refused(schema):
    with pytest.raises(TypeError, match="dict or its JSON text, not"):
        JSONSchema(schema)
