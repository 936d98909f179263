"""Names that act on the model: finding them in a vocabulary, and keeping them out of a text.

SentencePiece turns every `<end_of_turn>` it meets in a text into the control token of that name,
whoever wrote it. Text of other people is therefore cut inside each such name, and its parts are
encoded apart, so that the name comes out as ordinary characters.
"""

import itertools
import os
from collections.abc import Iterator
from typing import Any

NORMAL, CONTROL, USER_DEFINED = 1, 3, 4  # the piece types of SentencePiece's model format
WHITESPACE_MARK = "▁"  # stands for a space inside a vocabulary


class TextParts:
    """Cuts texts so that none of `names` is left whole.

    >>> TextParts(["<eot>", "<eos>"]).cut("a<eot>b <x> <<eos>")
    ['a<', 'eot>b <x> <<', 'eos>']

    Args:
        names: the texts that must not come out as one token, each of two letters or more.
        whitespace_mark: whether a literal `▁` becomes a part of its own. Encoded like any other
            text it would come back as a space.
    """

    def __init__(self, names: list[str], whitespace_mark: bool = False):
        self.names = tuple(names)
        self.starts = "".join({name[0] for name in names})
        self.whitespace_mark = whitespace_mark
        by_first = {start: [n for n in names if n[0] == start] for start in self.starts}
        # Every text that is cut holds one of these; nearly all texts hold none, which is soon seen.
        self.clues = [os.path.commonprefix(names) for names in by_first.values()]
        self.clues += [WHITESPACE_MARK] * whitespace_mark
        # Gemma 3 has 6,400 names: how long those are that begin with the same two letters.
        self._known = frozenset(names)
        self._lengths: dict[str, set[int]] = {}
        for name in names:
            self._lengths.setdefault(name[:2], set()).add(len(name))

    def may_cut(self, text: str) -> bool:
        """Whether there is anything in `text` for which `cut` is needed."""
        for clue in self.clues:  # faster than any(): this is run for each text
            if clue in text:
                return True
        return False

    def cut(self, text: str) -> list[str]:
        """The parts of `text`, in order; together they are the text."""
        cuts, lengths, known = [], self._lengths, self._known
        for start in self.starts:
            at = text.find(start)
            while at >= 0:
                near = lengths.get(text[at : at + 2])
                if near and any(text[at : at + length] in known for length in near):
                    cuts.append(at + 1)
                at = text.find(start, at + 1)
        if self.whitespace_mark and WHITESPACE_MARK in text:
            marks = [i for i, letter in enumerate(text) if letter == WHITESPACE_MARK]
            cuts += marks + [at + 1 for at in marks]
        if not cuts:
            return [text]
        edges = sorted({0, len(text), *cuts})
        return [text[a:b] for a, b in itertools.pairwise(edges)]


def control_names(proto: bytes) -> dict[str, int]:
    """The control tokens of a serialized SentencePiece model: name to id.

    They are its pieces of type CONTROL, and those of type USER_DEFINED in angle or square brackets:
    `<end_of_turn>`, `<|fim_prefix|>`, `[@BOS@]`. Runs of newlines, tabs and spaces, which are
    user-defined, too, are plain text. Markup such as `<table>`, which Gemma's vocabulary holds as
    user-defined pieces, counts as a name: it costs a person's HTML some tokens, no meaning.
    """
    return {
        piece: index
        for index, piece, kind in special_pieces(proto)
        if kind == CONTROL or (kind == USER_DEFINED and _is_name(piece))
    }


def rewrites_letters(proto: bytes) -> bool:
    """Whether the model's normalizer changes letters; Gemma's, the identity, changes none."""
    for field, value in _fields(proto):
        inner = 0
        while field == 3 and isinstance(value, bytes) and inner < len(value):
            option, content, inner = _field(value, inner)
            if option == 2 and content:  # the compiled table of what becomes what
                return True
    return False


def _is_name(piece: str) -> bool:
    return len(piece) > 2 and piece[0] + piece[-1] in ("<>", "[]")


def special_pieces(proto: bytes) -> Iterator[tuple[int, str, int]]:
    """`(id, piece, type)` of every piece that is not NORMAL.

    Reads the wire format itself: the reader that SentencePiece ships needs the protobuf package,
    and its own processor does not tell which pieces are user-defined.
    """
    index = -1
    for field, value in _fields(proto):
        # 2 is how the model was trained, 3 the normalizer; a number is nothing that protobuf knows.
        if field != 1 or not isinstance(value, bytes):
            continue
        index += 1
        # A name and a score, nothing else: nearly all pieces.
        if len(value) > 1 and len(value) == value[1] + 7:
            continue
        name, kind, inner = b"", NORMAL, 0
        while inner < len(value):
            field, content, inner = _field(value, inner)
            if field == 1 and isinstance(content, bytes):
                name = content
            elif field == 3 and isinstance(content, int):
                kind = content
        if kind != NORMAL:
            yield index, name.decode("utf-8"), kind


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protobuf message."""
    position = 0
    while position < len(data):
        # A quarter of a million pieces, nearly all of them of less than 128 bytes.
        if data[position] == 10 and data[position + 1] < 128:
            begin, position = position + 2, position + 2 + data[position + 1]
            yield 1, data[begin:position]
        else:
            field, value, position = _field(data, position)
            yield field, value


def _field(data: bytes, position: int) -> tuple[int, Any, int]:
    """One field of a protobuf message: its number, its content, where the next one starts."""
    key, position = _varint(data, position)
    if key & 7 == 0:
        value, position = _varint(data, position)
        return key >> 3, value, position
    if key & 7 == 2:
        size, position = _varint(data, position)
    else:
        size = {1: 8, 5: 4}[key & 7]
    return key >> 3, data[position : position + size], position + size


def _varint(data, position):
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position
