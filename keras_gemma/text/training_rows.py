"""What people train on, as documents of ids with weights; rows of these as inputs and labels.

A weight says whether the token counts as a label. B rows, T tokens in a row.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from keras_gemma.text.tokenizer_inputs import flat_texts
from keras_gemma.text.turns import encode_turns

PAIR = {"prompts", "responses"}


def documents_of(preprocessor: Any, x: Any, limit: int | None) -> tuple[list, list, bool]:
    """Ids and weights of each document in `x`, cut to `limit` tokens if there is one.

    Returns:
        `(documents, weights, batched)`; `batched` is false where `x` is one document by itself.

    Raises:
        TypeError: if `x`, or a part of it, is nothing to train on; its position is named.
    """
    if isinstance(x, Sequence) and len(x) and isinstance(x[0], Mapping) and "role" not in x[0]:
        x = _columns(x)
    if isinstance(x, Mapping):
        if set(x) >= PAIR:
            return _pairs(preprocessor, x, limit)
        if "messages" in x:
            return _conversations(preprocessor, x["messages"], limit)
        raise TypeError(
            f"Got a dictionary of {sorted(x)}; to train on, 'prompts' with 'responses', or "
            "'messages', were awaited."
        )
    head = x[0] if isinstance(x, Sequence) and len(x) else None
    if isinstance(head, Mapping) or (isinstance(head, (list, tuple)) and head):
        return _conversations(preprocessor, x, limit)
    return _texts(preprocessor, x, limit)


def _columns(rows):
    """Records as columns: `[{"messages": m}, ...]` is `{"messages": [m, ...]}`."""
    names = set(rows[0])
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping) or set(row) != names:
            found = sorted(row) if isinstance(row, Mapping) else type(row).__name__
            raise TypeError(f"Record {number} has {found}, where {sorted(names)} were awaited.")
    return {name: [row[name] for row in rows] for name in names}


def _texts(preprocessor, x, limit):
    texts, batched = flat_texts(x)
    first, last = preprocessor.first, preprocessor.last
    room = limit and max(limit - len(first) - len(last), 0)
    rows = preprocessor.tokenizer.encode_batch(texts, preprocessor.control_tokens)
    documents = [first + row[:room] + last for row in rows]
    return documents, [[1] * len(document) for document in documents], batched


def _pairs(preprocessor, x, limit):
    columns, batched = zip(*(flat_texts(x[key]) for key in ("prompts", "responses")))
    if len(columns[0]) != len(columns[1]) or batched[0] != batched[1]:
        raise ValueError(
            f"There are {len(columns[0])} prompts and {len(columns[1])} responses; each prompt "
            "needs one response."
        )
    encode = preprocessor.tokenizer.encode_batch
    rows = [encode(column, preprocessor.control_tokens) for column in columns]
    first, last = preprocessor.first, preprocessor.last
    documents, weights = [], []
    for prompt, response in zip(*rows):
        if limit:
            room = max(limit - len(first) - len(last), 0)
            kept = min(len(prompt), max(room - len(response), (room + 1) // 2))
            prompt, response = prompt[:kept], response[: room - kept]
        documents.append(first + prompt + response + last)
        weights.append([0] * (len(first) + len(prompt)) + [1] * (len(response) + len(last)))
    return documents, weights, batched[0]


def _conversations(preprocessor, x, limit):
    batched = not (len(x) and isinstance(x[0], Mapping))
    documents, weights = [], []
    for number, messages in enumerate(x if batched else [x]):
        try:
            ids, spoken = encode_turns(preprocessor.tokenizer, messages)
        except (TypeError, ValueError) as error:
            raise type(error)(f"Conversation {number}: {error}" if batched else error) from None
        skip = 0 if preprocessor.add_start_token else 1
        documents.append(ids[skip:][:limit])
        weights.append(spoken[skip:][:limit])
    return documents, weights, batched


def split_long(documents: list, weights: list, length: int, first: list[int]) -> tuple[list, list]:
    """Documents split so that none is longer than `length`, with every token a label once.

    A part begins as the document did, with `first`, and with the last token of the part before, so
    that there is something to predict its own first token from.

    >>> split_long([[2, 5, 6, 7, 8]], [[0, 1, 1, 1, 1]], length=4, first=[2])
    ([[2, 5, 6, 7], [2, 7, 8]], [[0, 1, 1, 1], [0, 0, 1]])
    """
    ids_of_parts, weights_of_parts = [], []
    fresh = length - len(first) - 1
    for document, weight in zip(documents, weights):
        if len(document) > length and fresh < 1:
            raise ValueError(
                f"sequence_length={length - 1} leaves no room to split long documents. Raise it."
            )
        ids_of_parts.append(document[:length])
        weights_of_parts.append(weight[:length])
        for at in range(length, len(document), max(fresh, 1)):
            ids_of_parts.append(first + document[at - 1 : at + fresh])
            weights_of_parts.append([0] * (len(first) + 1) + weight[at : at + fresh])
    return ids_of_parts, weights_of_parts


def next_token_batch(token_ids: Any, segments: Any, weights: Any) -> tuple[dict, Any, Any]:
    """Rows of T + 1 tokens as inputs and labels of T.

    The first token of a document is no label: the one before it belongs to another.
    """
    same = segments[:, 1:] == segments[:, :-1]
    x = {"token_ids": token_ids[:, :-1], "padding_mask": segments[:, :-1]}
    return x, token_ids[:, 1:], weights[:, 1:] * same
