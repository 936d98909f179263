"""What people train on, as documents of ids with weights; rows of these as inputs and labels.

A weight says how much the token counts as a label. B rows, T tokens in a row.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from keras_gemma.text.tokenizer_inputs import flat_texts
from keras_gemma.text.turns import encode_conversations, turns_of

PAIR = {"prompts", "responses"}
# What may be done with a document that is longer than a row.
TOO_LONG = ("cut", "split", "drop", "error")
MOST_EXAMPLES = 10


@dataclasses.dataclass
class Tally:
    """What became of documents on their way into rows; counts of documents, but for two.

    `unlabelled` ones have no token that counts for the loss. `lost_tokens` were cut off or dropped,
    of `all_tokens`. `examples` says of the first few of the others what was done and why.
    """

    documents: int = 0
    cut: int = 0
    split: int = 0
    dropped: int = 0
    unlabelled: int = 0
    lost_tokens: int = 0
    all_tokens: int = 0
    examples: list[str] = dataclasses.field(default_factory=list)

    def add(self, other: "Tally") -> None:
        """Count on."""
        for field in dataclasses.fields(Tally):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))
        del self.examples[MOST_EXAMPLES:]


def documents_of(preprocessor: Any, x: Any, longest: int, first_number: int = 0) -> tuple:
    """Ids and weights of each document in `x`, none of more than `longest` tokens.

    Longer ones are treated as `preprocessor.policy` says; `first_number` is what the first document
    is called in messages.

    Returns:
        `(documents, weights, batched, tally)`; `batched` is false where `x` is one document by
        itself.

    Raises:
        TypeError: if `x`, or a part of it, is nothing to train on; its position is named.
        ValueError: likewise; or one is too long, and the policy is "error".
    """
    policy = preprocessor.policy
    encode, x = _kind_of(x)
    documents, weights, lengths, batched = encode(
        preprocessor, x, longest if policy == "cut" else None
    )
    long = [number for number, length in enumerate(lengths) if length > longest]
    tally = Tally(documents=len(lengths), all_tokens=sum(lengths))
    for number in long[:MOST_EXAMPLES]:
        name = f"document {first_number + number}: {lengths[number]:,} tokens"
        if policy == "error":
            raise ValueError(
                f"{name.capitalize()}, and a row takes {longest:,} (sequence_length="
                f"{longest - 1:,} and the last label). Raise sequence_length, or set too_long to "
                "one of 'cut', 'split', 'drop'."
            )
        done = {"cut": "cut to", "split": "split into parts of", "drop": "dropped, over"}[policy]
        tally.examples.append(f"{name}, {done} {longest:,}")
    if policy == "drop":
        tally.dropped = len(long)
        tally.lost_tokens = sum(lengths[number] for number in long)
        kept = [number for number, length in enumerate(lengths) if length <= longest]
        documents, weights = ([part[number] for number in kept] for part in (documents, weights))
    elif policy == "cut":
        tally.cut = len(long)
        tally.lost_tokens = sum(lengths) - sum(map(len, documents))
    tally.unlabelled = sum(not any(row[1:]) for row in weights)
    if policy == "split" and long:
        tally.split = len(long)
        documents, weights = split_long(documents, weights, longest, preprocessor.first)
    return documents, weights, batched, tally


def _kind_of(x):
    """How to encode `x`, and `x` in columns."""
    if isinstance(x, Sequence) and len(x) and isinstance(x[0], Mapping) and "role" not in x[0]:
        x = _columns(x)
    if isinstance(x, Mapping):
        if set(x) >= PAIR:
            return _pairs, x
        if "messages" in x:
            return _conversations, x["messages"]
        raise TypeError(
            f"Got a dictionary of {sorted(x)}; to train on, 'prompts' with 'responses', or "
            "'messages', were awaited."
        )
    head = x[0] if isinstance(x, Sequence) and len(x) else None
    if isinstance(head, Mapping) or (isinstance(head, (list, tuple)) and head):
        return _conversations, x
    return _texts, x


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
    ends = len(first) + len(last)
    room = limit and max(limit - ends, 0)
    rows = preprocessor.tokenizer.encode_batch(texts, preprocessor.control_tokens)
    documents = [first + row[:room] + last for row in rows]
    weights = [[1] * len(document) for document in documents]
    return documents, weights, [len(row) + ends for row in rows], batched


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
    ends = len(first) + len(last)
    documents, weights, lengths = [], [], []
    for prompt, response in zip(*rows):
        lengths.append(ends + len(prompt) + len(response))
        if limit:
            room = max(limit - ends, 0)
            kept = min(len(prompt), max(room - len(response), (room + 1) // 2))
            prompt, response = prompt[:kept], response[: room - kept]
        documents.append(first + prompt + response + last)
        weights.append([0] * (len(first) + len(prompt)) + [1] * (len(response) + len(last)))
    return documents, weights, lengths, batched[0]


def _conversations(preprocessor, x, limit):
    batched = not (len(x) and isinstance(x[0], Mapping))
    checked = []
    for number, messages in enumerate(x if batched else [x]):
        try:
            checked.append(turns_of(messages))
        except (TypeError, ValueError) as error:
            raise type(error)(f"Conversation {number}: {error}" if batched else error) from None
    skip = 0 if preprocessor.add_start_token else 1
    documents, weights, lengths = [], [], []
    for ids, spoken in encode_conversations(preprocessor.tokenizer, checked):
        lengths.append(len(ids) - skip)
        documents.append(ids[skip:][:limit])
        weights.append(spoken[skip:][:limit])
    return documents, weights, lengths, batched


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
