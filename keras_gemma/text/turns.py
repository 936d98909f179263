"""Conversations as Gemma reads them: messages to turns, turns to integers.

    <bos><start_of_turn>user
    question<end_of_turn>
    <start_of_turn>model
    answer<end_of_turn>

Control tokens are written by id, here and nowhere else; the text of a message is encoded apart
from them, so that nothing typed in it can start or end a turn.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

ROLES = {"user": "user", "model": "model", "assistant": "model", "system": "system"}


class Message(TypedDict):
    """One message: who says it (`user`, `model`; `assistant` is the model; `system`), and what."""

    role: str
    content: str


def encode_turns(
    tokenizer: Any, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = False
) -> tuple[list[int], list[int]]:
    """Ids of a conversation, and a mask of what the model said.

    Gemma has no turn for a system text: one at the head of the conversation is put, with an empty
    line between, before the first text of the user.

    Args:
        tokenizer: a `GemmaTokenizer`.
        messages: `{"role", "content"}`; user and model in turn, the user first, after at most one
            `system` message.
        add_generation_prompt: whether to open a turn for the model to speak in.

    Returns:
        `(ids, spoken)`, lists of one length; `spoken` is 1 on the model's text and on the
        `<end_of_turn>` that ends it, else 0.

    Raises:
        ValueError: if the roles do not alternate, or are others.
        TypeError: if a message is not of this form.
    """
    turns = _alternating(messages)
    start, end = _turn_ids(tokenizer)
    newline = tokenizer.encode("\n")
    ids, spoken = [tokenizer.start_token_id], [0]
    for role, content in turns:
        header = [start, *tokenizer.encode(f"{role}\n")]
        said = [*tokenizer.encode(content), end]
        ids += [*header, *said, *newline]
        spoken += [0] * len(header) + [int(role == "model")] * len(said) + [0] * len(newline)
    if add_generation_prompt:
        if turns[-1][0] == "model":
            raise ValueError(
                "The model spoke last; its next turn needs a message of the user first."
            )
        header = [start, *tokenizer.encode("model\n")]
        ids += header
        spoken += [0] * len(header)
    return ids, spoken


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


def _alternating(messages):
    """`(role, content)` of each turn; the system text stands in the user's first one."""
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise TypeError(f"A conversation is a list of messages, not {type(messages).__name__}.")
    turns, system = [], None
    for number, message in enumerate(messages):
        role, content = _checked(message, number)
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
        if system is not None and not turns and system:
            content = f"{system}\n\n{content}"
        turns.append((role, content))
    if not turns:
        raise ValueError("A conversation needs at least one message of the user.")
    return turns


def _checked(message, number):
    if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
        found = sorted(message) if isinstance(message, Mapping) else type(message).__name__
        raise TypeError(f"Message {number} must have 'role' and 'content', and is {found}.")
    role, content = message["role"], message["content"]
    if not isinstance(role, str) or role not in ROLES:
        raise ValueError(f"Message {number} has the role {role!r}; there are {', '.join(ROLES)}.")
    if not isinstance(content, str):
        raise TypeError(
            f"The content of message {number} must be a text, not {type(content).__name__}."
        )
    return ROLES[role], content
