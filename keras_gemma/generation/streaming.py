"""Ids as they are made, to text as it may be shown."""

from collections.abc import Iterable, Iterator
from typing import Any

from keras_gemma.generation.stopping import StopStrings
from keras_gemma.text import StreamDecoder


def end_ids(tokenizer: Any) -> set[int]:
    """The ids with which a model ends a text or its turn."""
    return {tokenizer.end_token_id, tokenizer.end_of_turn_token_id} - {None}


def text_pieces(tokenizer: Any, ids: Iterable[int], stops: StopStrings) -> Iterator[str]:
    """Yield the text of `ids` piece by piece, without end tokens and what a stop string cuts off.

    No piece holds half a character or part of a stop string; when one is found, no further id is
    asked for.
    """
    decoder, silent = StreamDecoder(tokenizer), end_ids(tokenizer)
    for token in ids:
        if token not in silent and (piece := stops.push(decoder.push(token))):
            yield piece
        if stops.found:
            return
    if piece := stops.push(decoder.finish()) + stops.finish():
        yield piece
