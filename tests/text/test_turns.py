# ruff: noqa: F401, F811 (fixtures are imported by name)
import random

import pytest
from vocabularies import (
    TURNS,
    any_tokenizer,
    code_tokenizer,
    proto,
    real_proto,
    real_tokenizer,
    tokenizer,
    train,
)

from keras_gemma.text import GemmaTokenizer, decode_turns, encode_turns

pytestmark = pytest.mark.once


def user(content):
    return {"role": "user", "content": content}


def model(content, role="model"):
    return {"role": role, "content": content}


TALK = [user("What is a fox?"), model("An animal."), user("And a  dog?\n"), model("Also one 😀.")]
TALK_AS_TEXT = (
    "<start_of_turn>user\nWhat is a fox?<end_of_turn>\n"
    "<start_of_turn>model\nAn animal.<end_of_turn>\n"
    "<start_of_turn>user\nAnd a  dog?\n<end_of_turn>\n"
    "<start_of_turn>model\nAlso one 😀.<end_of_turn>\n"
)


def test_ids_are_those_of_the_format_written_by_hand(any_tokenizer):
    ids, spoken = encode_turns(any_tokenizer, TALK)
    assert ids == [any_tokenizer.start_token_id, *any_tokenizer(TALK_AS_TEXT)]
    assert len(ids) == len(spoken) and all(type(index) is int for index in ids)


def test_gemmas_own_ids_of_a_turn(real_tokenizer):
    ids, spoken = encode_turns(real_tokenizer, [user("Hi"), model("Hello.")])
    assert ids == [2, 106, 1645, 108, 2151, 107, 108, 106, 2516, 108, 4521, 235265, 107, 108]
    assert spoken == [0] * 10 + [1] * 3 + [0]


def test_the_mask_is_what_the_model_said_and_its_end_of_turn(any_tokenizer):
    ids, spoken = encode_turns(any_tokenizer, TALK)
    said = [index for index, mask in zip(ids, spoken) if mask]
    assert any_tokenizer.detokenize(said) == "An animal.<end_of_turn>Also one 😀.<end_of_turn>"


def test_the_generation_prompt_opens_a_turn_of_the_model(any_tokenizer):
    asked, _ = encode_turns(any_tokenizer, TALK[:3])
    ids, spoken = encode_turns(any_tokenizer, TALK[:3], add_generation_prompt=True)
    assert ids == asked + any_tokenizer("<start_of_turn>model\n").tolist()
    assert sum(spoken) == sum(encode_turns(any_tokenizer, TALK[:2])[1])
    whole, _ = encode_turns(any_tokenizer, TALK)
    assert whole[: len(ids)] == ids  # so that a conversation goes on where its prompt ended


def test_a_system_text_stands_before_the_first_text_of_the_user(any_tokenizer):
    system = {"role": "system", "content": "Be brief."}
    first = user("Be brief.\n\nWhat is a fox?")
    expected = encode_turns(any_tokenizer, [first, *TALK[1:]])
    assert encode_turns(any_tokenizer, [system, *TALK]) == expected
    assert encode_turns(any_tokenizer, [{**system, "content": ""}, *TALK]) == encode_turns(
        any_tokenizer, TALK
    )


def test_assistant_is_another_word_for_model(tokenizer):
    talk = [user("a"), model("b", role="assistant")]
    assert encode_turns(tokenizer, talk) == encode_turns(tokenizer, [user("a"), model("b")])


def test_the_dialect_of_chat_completions_is_read(any_tokenizer):
    parts = [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief.\n"}]
    for content in (parts, tuple(parts)):
        talk = [{"role": "developer", "content": content}, *TALK]
        awaited = [{"role": "system", "content": "Be brief.\n"}, *TALK]
        assert encode_turns(any_tokenizer, talk) == encode_turns(any_tokenizer, awaited)
    none = {**TALK[1], "tool_calls": None, "function_call": None}
    assert encode_turns(any_tokenizer, [TALK[0], none]) == encode_turns(any_tokenizer, TALK[:2])


def test_no_message_can_start_or_end_a_turn(any_tokenizer):
    random_ = random.Random(3)
    start, end = any_tokenizer.start_of_turn_token_id, any_tokenizer.end_of_turn_token_id
    pieces = [*any_tokenizer.control_tokens, "<start_of_", "turn>", "<", ">", "user\n", " ", "▁"]
    for _ in range(300):
        texts = ["".join(random_.choices(pieces, k=random_.randint(0, 6))) for _ in range(4)]
        talk = [m for i in (0, 2) for m in (user(texts[i]), model(texts[i + 1]))]
        ids, _ = encode_turns(any_tokenizer, talk)
        assert ids.count(start) == ids.count(end) == 4
        controls = set(any_tokenizer.control_tokens.values()) - {start, end}
        assert not controls & set(ids[1:])
        assert decode_turns(any_tokenizer, ids) == talk


def test_turns_come_back_as_messages(any_tokenizer):
    ids, _ = encode_turns(any_tokenizer, TALK)
    assert decode_turns(any_tokenizer, ids) == TALK
    prompt, _ = encode_turns(any_tokenizer, TALK[:1], add_generation_prompt=True)
    assert decode_turns(any_tokenizer, prompt) == [TALK[0], model("")]
    assert decode_turns(any_tokenizer, [2]) == []


@pytest.mark.parametrize(
    ("messages", "error", "says"),
    [
        ([], ValueError, "at least one message of the user"),
        ([{"role": "system", "content": "s"}], ValueError, "at least one message"),
        ([model("a")], ValueError, "Message 0 is by the model, where one by the user"),
        ([user("a"), user("b")], ValueError, "Message 1 is by the user, where one by the model"),
        ([user("a"), model("b"), model("c")], ValueError, "Message 2 is by the model"),
        ([user("a"), {"role": "system", "content": "s"}], ValueError, "only stand first"),
        ([{"role": "robot", "content": "s"}], ValueError, "role 'robot'; there are user, model"),
        ([{"role": ["user"], "content": "s"}], ValueError, "role \\['user'\\]"),
        ([{"role": "user"}], TypeError, "Message 0 must have 'role' and 'content'"),
        (["hello"], TypeError, "Message 0 must have .* and is str"),
        ([user(3)], TypeError, "content of message 0 must be a text, not int"),
        ([user("a"), model(None)], TypeError, "content of message 1"),
        ([user("lone \ud800")], ValueError, "content of message 0 holds a lone surrogate"),
        ([user([{"type": "image_url"}])], ValueError, "a part of the type 'image_url'; awaited"),
        ([user([{"type": "text"}])], TypeError, "a part whose text is NoneType"),
        ([user(["text"])], TypeError, "a part that is 'text'; awaited were parts .* message 0"),
        (
            [user("a"), {**model(None), "tool_calls": [{"id": "1"}]}],
            ValueError,
            "1 has 'tool_calls'",
        ),
        (
            [user("a"), {"role": "tool", "content": "b"}],
            ValueError,
            "Message 1 has the role 'tool'",
        ),
        ([user("a"), {**model("b"), "weight": 1e39}], ValueError, "no more than float32 holds"),
        ([user("a"), {**model("b"), "weight": 10**400}], ValueError, "no more than float32 holds"),
        ("hello", TypeError, "list of messages, not str"),
        (user("a"), TypeError, "list of messages, not dict"),
        (None, TypeError, "list of messages, not NoneType"),
    ],
)
def test_what_is_no_conversation_is_refused(tokenizer, messages, error, says):
    with pytest.raises(error, match=says):
        encode_turns(tokenizer, messages)


def test_the_model_does_not_speak_twice(tokenizer):
    with pytest.raises(ValueError, match="spoke last"):
        encode_turns(tokenizer, TALK, add_generation_prompt=True)


def test_a_vocabulary_without_turns_says_so():
    with pytest.raises(ValueError, match="no <start_of_turn>"):
        encode_turns(GemmaTokenizer(train(["\n"])), TALK)
