"""What a row of people's files may look like, brought to what the preprocessor takes."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from keras_gemma.text.turns import refuse_surrogates, turns_of


class PairNames(NamedTuple):
    """Names of fields: the prompt's, a second one that may be empty, and the response's."""

    prompt: str
    more: str | None
    response: str


# The first that a row has the fields of is meant. Two texts of a prompt are joined by an empty line.
PAIRS = (
    PairNames("prompts", None, "responses"),
    PairNames("prompt", None, "response"),
    PairNames("prompt", None, "completion"),
    PairNames("question", None, "answer"),
    PairNames("instruction", "input", "output"),
    PairNames("instruction", "context", "response"),
)
FIELDS = {"messages", "text", *(name for pair in PAIRS for name in pair if name)}
TO_LINES = 'jq -c ".[]" rows.json > rows.jsonl'
AWAITED = "'messages', 'text', or a pair: " + ", ".join(
    f"'{pair.prompt}' with '{pair.response}'" for pair in PAIRS
)


def checked_row(row: Any) -> tuple[str, Any]:
    """The form of a row (`"text"`, `"pair"`, `"conversation"`), and the row as the preprocessor takes it.

    >>> checked_row({"question": "Two and two?", "answer": "Four", "id": 17})
    ('pair', {'prompts': 'Two and two?', 'responses': 'Four'})

    Raises:
        TypeError: a field is missing, or no text.
        ValueError: a response is empty, the model says nothing, a role is unknown or out of
            turn, half a character stands somewhere.
    """
    if isinstance(row, bytes):
        row = row.decode("utf-8")  # an error of its own kind of ValueError says where
    if isinstance(row, str):
        return "text", _text({"text": row}, "text")
    if isinstance(row, (list, tuple)):
        if not is_one(row):
            raise TypeError(
                "a row must be one record or one conversation, not a list of them. In a file each "
                "stands on a line of its own (JSON Lines); of one array of rows such lines are "
                f"made by `{TO_LINES}`"
            )
        row = {"messages": row}
    if not isinstance(row, Mapping):
        raise TypeError(f"a row must be an object or a text, not {type(row).__name__}")
    if "messages" in row:
        return "conversation", {"messages": _talk(row["messages"])}
    for names in PAIRS:
        if names.prompt in row and names.response in row:
            return "pair", _pair(row, names)
    if "text" in row:
        return "text", _text(row, "text")
    raise TypeError(f"found the fields {sorted(map(str, row))}, awaited {AWAITED}")


def is_one(item: Any) -> bool:
    """Whether this is one row: a text, a record, a conversation; not a batch or columns of them."""
    if isinstance(item, Mapping):
        name = next((name for name in item if name in FIELDS), None)
        if name == "messages":
            return is_one(item[name])
        return name is None or isinstance(item[name], (str, bytes))
    if isinstance(item, (list, tuple)):  # of messages it is a conversation
        return len(item) > 0 and isinstance(item[0], Mapping) and "role" in item[0]
    return np.ndim(item) == 0


def _talk(messages):
    turns = turns_of(messages)
    spoken = [turn for turn in turns if turn.role == "model"]
    if not spoken:
        raise ValueError("the model says nothing in this conversation")
    if any(turn.weight and not turn.content.strip() for turn in spoken):
        raise ValueError("what the model says is empty; give its message the weight 0, or drop it")
    return messages


def _pair(row, names):
    prompt, response = _text(row, names.prompt), _text(row, names.response)
    if names.more and row.get(names.more):
        prompt = f"{prompt}\n\n{_text(row, names.more)}"
    if not response.strip():
        raise ValueError(f"'{names.response}' is empty")
    return {"prompts": prompt, "responses": response}


def _text(row, name):
    value = row[name]
    if isinstance(value, bytes):
        value = value.decode("utf-8")
    if not isinstance(value, str):
        raise TypeError(f"'{name}' must be a text, not {type(value).__name__}")
    refuse_surrogates(value, f"'{name}'")
    return str(value)
