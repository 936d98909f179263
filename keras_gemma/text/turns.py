"""Conversations as Gemma reads them: messages to turns, turns to integers.

    <bos><start_of_turn>user
    question<end_of_turn>
    <start_of_turn>model
    answer<end_of_turn>

Control tokens are written by id, here and nowhere else; the text of a message is encoded apart
from them, so that nothing typed in it can start or end a turn.
"""

import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, NotRequired, TypedDict

ROLES = {
    "user": "user",
    "model": "model",
    "assistant": "model",
    "system": "system",
    "developer": "system",
}
LARGEST_WEIGHT = 3.4028234663852886e38  # of float32, in which weights are kept


class Message(TypedDict):
    """One message: who says it (`user`, `model`; `assistant` is the model; `system`), and what.

    What comes from elsewhere may also say `developer` for `system`, and have its content as a list
    of parts, `{"type": "text", "text": ...}`, which are joined as they are.
    `weight` is how much the loss counts what the model says there: 1 unless told, 0 for not at all.
    """

    role: str
    content: str
    weight: NotRequired[float]


class Turn(NamedTuple):
    """One turn, checked: `user` or `model`, its text, and how much the loss counts it."""

    role: str
    content: str
    weight: float


def encode_turns(
    tokenizer: Any, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = False
) -> tuple[list[int], list[float]]:
    """Ids of a conversation, and a mask of what the model said.

    Gemma has no turn for a system text: one at the head of the conversation is put, with an empty
    line between, before the first text of the user.

    Args:
        tokenizer: a `GemmaTokenizer`.
        messages: `{"role", "content"}`; user and model in turn, the user first, after at most one
            `system` message.
        add_generation_prompt: whether to open a turn for the model to speak in.

    Returns:
        `(ids, spoken)`, lists of one length; `spoken` is 1, or the message's `weight`, on the
        model's text and on the `<end_of_turn>` that ends it, else 0.

    Raises:
        ValueError: if the roles do not alternate, or are others.
        TypeError: if a message is not of this form.
    """
    turns = turns_of(messages)
    ((ids, spoken),) = encode_conversations(tokenizer, [turns])
    if add_generation_prompt:
        if turns[-1].role == "model":
            raise ValueError(
                "The model spoke last; its next turn needs a message of the user first."
            )
        header = [_turn_ids(tokenizer)[0], *tokenizer.encode("model\n")]
        ids += header
        spoken += [0] * len(header)
    return ids, spoken


def encode_conversations(
    tokenizer: Any, conversations: Sequence[Sequence[Turn]]
) -> list[tuple[list[int], list[float]]]:
    """`encode_turns` of many conversations, checked by `turns_of`: several times as fast."""
    start, end = _turn_ids(tokenizer)
    newline = tokenizer.encode("\n")
    headers = {role: [start, *tokenizer.encode(f"{role}\n")] for role in ("user", "model")}
    texts = [turn.content for turns in conversations for turn in turns]
    contents = iter(tokenizer.encode_batch(texts))
    encoded = []
    for turns in conversations:
        ids, spoken = [tokenizer.start_token_id], [0.0]
        for turn in turns:
            header, said = headers[turn.role], next(contents)
            ids += [*header, *said, end, *newline]
            spoken += [0] * len(header) + [turn.weight] * (len(said) + 1) + [0] * len(newline)
        encoded.append((ids, spoken))
    return encoded


def decode_turns(tokenizer: Any, ids: Iterable[int]) -> list[Message]:
    """The messages of an encoded conversation; of a turn still open, what is there so far."""
    start, end = _turn_ids(tokenizer)
    messages: list[Message] = []
    turn = None
    for index in map(int, ids):
        if index == start:
            turn = []
        elif turn is not None and index != end:
            turn.append(index)
        elif turn is not None:
            messages.append(_message(tokenizer, turn))
            turn = None
    return [*messages, _message(tokenizer, turn)] if turn else messages


def _message(tokenizer, turn) -> Message:
    role, _, content = tokenizer.detokenize(turn).partition("\n")
    return {"role": role, "content": content}


def _turn_ids(tokenizer):
    if tokenizer.start_of_turn_token_id is None or tokenizer.end_of_turn_token_id is None:
        raise ValueError(
            "This vocabulary has no <start_of_turn> and <end_of_turn>, so it can't hold a "
            "conversation. Use the tokenizer of an instruction-tuned preset."
        )
    return tokenizer.start_of_turn_token_id, tokenizer.end_of_turn_token_id


def turns_of(messages: Any) -> list[Turn]:
    """The turns of a conversation, checked; the system text stands in the user's first one.

    Raises:
        ValueError: if the roles do not alternate, or are others; a weight is no share.
        TypeError: if a message is not of this form.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise TypeError(f"A conversation is a list of messages, not {type(messages).__name__}.")
    turns, system = [], ""
    for number, message in enumerate(messages):
        role, content, weight = _checked(message, number)
        if role == "system":
            if number:
                raise ValueError(f"Message {number} is a system text; it may only stand first.")
            system = content
            continue
        awaited = ("user", "model")[len(turns) % 2]
        if role != awaited:
            raise ValueError(
                f"Message {number} is by the {role}, where one by the {awaited} was awaited: user "
                "and model speak in turn, and the user begins. Join texts of one speaker."
            )
        if system and not turns:
            content = f"{system}\n\n{content}"
        turns.append(Turn(role, content, weight))
    if not turns:
        raise ValueError("A conversation needs at least one message of the user.")
    return turns


def _checked(message, number):
    if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
        found = sorted(message) if isinstance(message, Mapping) else type(message).__name__
        raise TypeError(f"Message {number} must have 'role' and 'content', and is {found}.")
    role, content = message["role"], message["content"]
    if not isinstance(role, str) or role not in ROLES:
        raise ValueError(f"Message {number} has the role {role!r}; there are {', '.join(ROLES)}.")
    if message.get("tool_calls") or message.get("function_call"):
        calls = "tool_calls" if message.get("tool_calls") else "function_call"
        raise ValueError(
            f"Message {number} has '{calls}', for which Gemma has no turn. Write the call into "
            "the content as text, or leave the conversation out."
        )
    if isinstance(content, (list, tuple)):
        content = "".join(_text_of(part, number) for part in content)
    if not isinstance(content, str):
        raise TypeError(
            f"The content of message {number} must be a text, not {type(content).__name__}."
        )
    refuse_surrogates(content, f"The content of message {number}")
    role = ROLES[role]
    return role, content, _weight(message.get("weight"), role, number)


def _text_of(part, number):
    """The text of one part of a content, as chat completions have them."""
    awaited = (
        f"awaited were parts {{'type': 'text', 'text': ...}} in the content of message {number}"
    )
    if not isinstance(part, Mapping) or not isinstance(part.get("type"), str):
        raise TypeError(f"Found a part that is {part!r:.60}; {awaited}.")
    if part["type"] != "text":
        raise ValueError(
            f"Found a part of the type {part['type']!r}; {awaited}: Gemma reads only text."
        )
    if not isinstance(text := part.get("text"), str):
        raise TypeError(f"Found a part whose text is {type(text).__name__}; {awaited}.")
    return text


def refuse_surrogates(text: str, name: str) -> None:
    """See that a text is one of Unicode, which half a character (a lone surrogate) is not.

    Raises:
        ValueError: saying where it stands in the text, which is called `name`.
    """
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} holds a lone surrogate {text[error.start]!a} at character {error.start}, which "
            "is no Unicode text. Read it with errors='replace', or take it out."
        ) from None


def _weight(weight, role, number):
    spoken = role == "model"
    if weight is None:  # as columns of Parquet have it where a row has none
        return float(spoken)
    if isinstance(weight, bool) or not isinstance(weight, numbers.Real):
        raise TypeError(f"The weight of message {number} must be a number, not {weight!r}.")
    if not 0 <= weight <= LARGEST_WEIGHT:
        raise ValueError(
            f"The weight of message {number} must be 0 or more, and no more than float32 holds, not "
            f"{weight!r}."
        )
    if weight and not spoken:
        raise ValueError(
            f"Message {number} is by the {role} and has the weight {weight!r}: only what the model "
            "says is trained on. Take the weight away, or set it to 0."
        )
    return float(weight)
