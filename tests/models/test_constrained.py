"""A constraint holds through generate, whatever the model would rather say."""

import json
import re

import jsonschema
import pytest

from keras_gemma import GemmaCausalLM
from keras_gemma.constraints import Choices, Grammar, JSONSchema, Regex

PROMPTS = ["Once upon a time", "The king said"]


@pytest.fixture(scope="module")
def model():
    return GemmaCausalLM.from_preset("gemma_tiny_en")


def answers(model, constraint, **keywords):
    keywords = {"max_new_tokens": 40, "strip_prompt": True, "seed": 1} | keywords
    return model.generate(PROMPTS, constraint=constraint, **keywords)


def test_one_of_a_few_texts(model):
    assert set(answers(model, Choices([" yes", " no", " perhaps"]))) <= {" yes", " no", " perhaps"}


def test_an_expression(model):
    pytest.importorskip("llguidance")
    for text in answers(model, Regex(r" [A-Z][a-z]{2,5}, [0-9]{2}")):
        assert re.fullmatch(r" [A-Z][a-z]{2,5}, [0-9]{2}", text)


def check_schema(model):
    schema = {
        "type": "object",
        "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 99}, "ill": {"type": "boolean"}},
        "required": ["age", "ill"],
        "additionalProperties": False,
    }  # fmt: skip
    for text in answers(model, JSONSchema(schema, compact=True)):
        jsonschema.validate(json.loads(text), schema)


def test_a_schema(model):
    pytest.importorskip("llguidance")
    check_schema(model)


def test_it_is_streamed(model):
    pieces = list(
        model.stream(PROMPTS[0], constraint=Choices([" a fox", " an owl"]), max_new_tokens=20)
    )
    assert "".join(pieces) in (" a fox", " an owl")


def test_a_text_cut_short_is_the_beginning_of_one_that_fits(model):
    whole = " a very" + ", very" * 60 + " long answer"
    for text in answers(model, Choices([whole])):
        assert text and text != whole and whole.startswith(text)


def test_what_allows_nothing_is_told_of_before_a_token_is_made(model):
    pytest.importorskip("llguidance")
    with pytest.raises(ValueError, match="can't be used"):
        answers(model, JSONSchema({"type": "integer", "minimum": 3, "maximum": 2}))
    with pytest.raises(ValueError, match="can't be used"):
        answers(model, Grammar("start: /[^\\s\\S]/"))


def test_it_needs_a_tokenizer(model):
    bare = GemmaCausalLM(model.backbone, preprocessor=None)
    with pytest.raises(ValueError, match="A constraint needs a preprocessor"):
        bare.generate_ids([2, 5], constraint=Choices(["a"]), max_new_tokens=3, stop_token_ids=None)


def test_a_schema_by_a_sampler(model):
    pytest.importorskip("llguidance")
    model.compile(sampler="random")
    check_schema(model)
