"""Documents of any length laid into rows of one length.

R rows, L tokens in a row.
"""

import bisect
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Packed(NamedTuple):
    """Rows of tokens, all of shape RL.

    `segments` is 0 on padding, and 1, 2, ... on the documents of a row: what `padding_mask` of
    the models takes. `weights` are those given to `pack`, 0 on padding, or 1 on every token.
    """

    token_ids: np.ndarray
    segments: np.ndarray
    weights: np.ndarray


def pack(
    documents: Sequence[Sequence[int]],
    row_length: int,
    weights: Sequence[Sequence[float]] | None = None,
    pad_id: int = 0,
) -> Packed:
    """Lay documents end to end in rows, so that few steps are spent on padding.

    Each goes, whole, into the fullest row that still has room for it. One longer than a row is
    cut into pieces, which count as documents of their own. Nothing is left out but empty documents.

    >>> pack([[5, 6], [7], [8, 9]], row_length=4).segments.tolist()
    [[1, 1, 2, 0], [1, 1, 0, 0]]

    Args:
        documents: lists or arrays of ids.
        row_length: tokens in a row.
        weights: for each document, one number a token.
        pad_id: what stands where no document does.

    Raises:
        ValueError: if `row_length` is not positive, or weights and tokens are not as many.
    """
    if row_length < 1:
        raise ValueError(f"row_length={row_length} must be at least 1.")
    pieces = [
        (document[at : at + row_length], row[at : at + row_length])
        for document, row in zip(documents, _weights_of(documents, weights))
        for at in range(0, len(document), row_length)
    ]
    places = _places([len(piece) for piece, _ in pieces], row_length)
    count = max((row for row, _, _ in places), default=-1) + 1
    return _lay(pieces, places, (count, row_length), pad_id)


def one_per_row(
    documents: Sequence[Sequence[int]],
    row_length: int,
    weights: Sequence[Sequence[float]] | None = None,
    pad_id: int = 0,
) -> Packed:
    """As `pack`, with a row for each document; none may be longer than a row.

    >>> one_per_row([[5, 6], [7]], row_length=3).token_ids.tolist()
    [[5, 6, 0], [7, 0, 0]]
    """
    pieces = list(zip(documents, _weights_of(documents, weights)))
    places = [(row, 0, 1) for row in range(len(pieces))]
    return _lay(pieces, places, (len(pieces), row_length), pad_id)


def _weights_of(documents, weights):
    if weights is None:
        return [np.ones(len(document), np.float32) for document in documents]
    if [len(document) for document in documents] != [len(row) for row in weights]:
        raise ValueError("`weights` must hold one number for each token of each document.")
    return weights


def _lay(pieces, places, shape, pad_id):
    packed = Packed(
        np.full(shape, pad_id, np.int32), np.zeros(shape, np.int32), np.zeros(shape, np.float32)
    )
    for (piece, weight), (row, start, segment) in zip(pieces, places):
        span = slice(start, start + len(piece))
        packed.token_ids[row, span] = piece
        packed.segments[row, span] = segment
        packed.weights[row, span] = weight
    return packed


def _places(lengths, row_length):
    """For each piece: its row, where it starts in it, and the how-manieth of the row it is."""
    open_rows = []  # (room left, row), sorted: the first with room enough is the fullest
    counts, places = [], []
    for length in lengths:
        at = bisect.bisect_left(open_rows, (length, -1))
        if at < len(open_rows):
            room, row = open_rows.pop(at)
        else:
            room, row = row_length, len(counts)
            counts.append(0)
        counts[row] += 1
        places.append((row, row_length - room, counts[row]))
        if room > length:
            bisect.insort(open_rows, (room - length, row))
    return places
