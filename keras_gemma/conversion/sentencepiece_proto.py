"""SentencePiece's model file, a protobuf message, read and written without the protobuf package.

Only what decides about pieces and ids is kept. The numbers below are those of the fields in
`sentencepiece_model.proto`.
"""

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from keras_gemma.presets.errors import BadPresetError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
UNIGRAM, BPE = 1, 2
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_PIECE, _SCORE, _TYPE = 1, 2, 3
_MODEL_TYPE, _VOCABULARY_SIZE, _USER_DEFINED_SYMBOLS, _BYTE_FALLBACK = 3, 4, 31, 35
# Of the special pieces: the fields of the id and the name, and what they are if nothing is said.
_SPECIAL = {
    "unk": (40, 45, 0, "<unk>"),
    "bos": (41, 46, 1, "<s>"),
    "eos": (42, 47, 2, "</s>"),
    "pad": (43, 48, -1, "<pad>"),
}
_NAME, _CHARSMAP, _DUMMY_PREFIX, _REMOVE_EXTRA, _ESCAPE = 1, 2, 3, 4, 5


class PieceModel(NamedTuple):
    """A vocabulary with the settings that say how text is cut into its pieces."""

    pieces: list[str]
    scores: np.ndarray  # float32
    types: np.ndarray  # uint8, as named at the top of this file
    ids: dict[str, int]  # of "unk", "bos", "eos", "pad"; -1 where there is none
    names: dict[str, str]  # the pieces of these
    model_type: int = BPE
    byte_fallback: bool = True
    normalizer: str = "identity"
    charsmap: bytes = b""  # the normalizer's table; the identity has none
    add_dummy_prefix: bool = False
    remove_extra_whitespaces: bool = False
    escape_whitespaces: bool = True


def parse_model(data: bytes, where: str = "The vocabulary") -> PieceModel:
    """A serialized SentencePiece model.

    Raises:
        BadPresetError: if the bytes are no such message; `where` names them.
    """
    pieces, scores, types = [], [], []
    trainer, normalizer = {}, {}
    for field, value in _fields(data, where):
        if field == _PIECES:
            piece, score, kind = _piece(value, where)
            pieces.append(piece)
            scores.append(score)
            types.append(kind)
        elif field == _TRAINER:
            trainer |= dict(_fields(value, where))
        elif field == _NORMALIZER:
            normalizer |= dict(_fields(value, where))
    special = _SPECIAL.items()
    ids = {name: _whole(trainer, id_, least) for name, (id_, _, least, _) in special}
    names = {name: trainer.get(field, usual.encode()) for name, (_, field, _, usual) in special}
    return PieceModel(
        pieces,
        np.array(scores, "float32"),
        np.array(types, "uint8"),
        ids,
        {name: _decoded(text, where) for name, text in names.items()},
        _whole(trainer, _MODEL_TYPE, UNIGRAM),
        bool(_whole(trainer, _BYTE_FALLBACK, 0)),
        _decoded(normalizer.get(_NAME, b""), where),
        bytes(_message(normalizer.get(_CHARSMAP, b""), where)),
        bool(_whole(normalizer, _DUMMY_PREFIX, 1)),
        bool(_whole(normalizer, _REMOVE_EXTRA, 1)),
        bool(_whole(normalizer, _ESCAPE, 1)),
    )


def serialize_model(model: PieceModel) -> bytes:
    """The bytes that SentencePiece loads.

    >>> types = np.array([UNKNOWN, NORMAL], "uint8")
    >>> model = PieceModel(["<unk>", "a"], np.zeros(2, "float32"), types, {"unk": 0}, {})
    >>> parse_model(serialize_model(model)).pieces
    ['<unk>', 'a']
    """
    parts = []
    for piece, score, kind in zip(model.pieces, model.scores.tolist(), model.types.tolist()):
        inner = _bytes_field(_PIECE, piece.encode()) + struct.pack("<Bf", _SCORE << 3 | 5, score)
        if kind != NORMAL:
            inner += _whole_field(_TYPE, kind)
        parts.append(_bytes_field(_PIECES, inner))
    trainer = [
        _whole_field(_MODEL_TYPE, model.model_type),
        _whole_field(_VOCABULARY_SIZE, len(model.pieces)),
        _whole_field(_BYTE_FALLBACK, model.byte_fallback),
    ]
    for index in np.flatnonzero(model.types == USER_DEFINED):
        trainer.append(_bytes_field(_USER_DEFINED_SYMBOLS, model.pieces[index].encode()))
    for name, (id_field, name_field, usual_id, usual_name) in _SPECIAL.items():
        trainer.append(_whole_field(id_field, model.ids.get(name, usual_id)))
        trainer.append(_bytes_field(name_field, model.names.get(name, usual_name).encode()))
    normalizer = [
        _bytes_field(_NAME, model.normalizer.encode()),
        _bytes_field(_CHARSMAP, model.charsmap),
        _whole_field(_DUMMY_PREFIX, model.add_dummy_prefix),
        _whole_field(_REMOVE_EXTRA, model.remove_extra_whitespaces),
        _whole_field(_ESCAPE, model.escape_whitespaces),
    ]
    parts.append(_bytes_field(_TRAINER, b"".join(trainer)))
    parts.append(_bytes_field(_NORMALIZER, b"".join(normalizer)))
    return b"".join(parts)


def _piece(value, where):
    value = _message(value, where)
    # A short name and a score, nothing else: nearly all pieces of a vocabulary.
    if len(value) > 7 and value[0] == 0x0A and value[1] == len(value) - 7 and value[-5] == 0x15:
        return _decoded(value[2:-5], where), struct.unpack("<f", value[-4:])[0], NORMAL
    fields = dict(_fields(value, where))
    score, kind = fields.get(_SCORE, bytes(4)), _whole(fields, _TYPE, NORMAL)
    if not isinstance(score, bytes) or len(score) != 4 or not NORMAL <= kind <= BYTE:
        raise _broken(where)
    return _decoded(fields.get(_PIECE, b""), where), struct.unpack("<f", score)[0], kind


def _fields(data: Any, where: str) -> Iterator[tuple[int, int | bytes]]:
    """`(number, content)` of each field: a whole number, or bytes."""
    data, at = _message(data, where), 0
    while at < len(data):
        key, at = _varint(data, at, where)
        if key & 7 == 0:
            value, at = _varint(data, at, where)
        else:
            size = {1: 8, 5: 4}.get(key & 7)
            if key & 7 == 2:
                size, at = _varint(data, at, where)
            if size is None or size > len(data) - at:
                raise _broken(where)
            value, at = data[at : at + size], at + size
        yield key >> 3, value


def _varint(data, at, where):
    value = 0
    for count in range(10):
        if at >= len(data):
            break
        byte = data[at]
        value |= (byte & 127) << 7 * count
        at += 1
        if byte < 128:
            return value, at
    raise _broken(where)


def _message(value, where):
    if not isinstance(value, bytes):
        raise _broken(where)
    return value


def _decoded(value, where):
    try:
        return _message(value, where).decode("utf-8")
    except UnicodeDecodeError:
        raise _broken(where) from None


def _whole(fields, number, usual):
    """A whole number of 32 bits; a negative one is written as one of 64."""
    value = fields.get(number, usual)
    if not isinstance(value, int):
        return usual
    return (value + 2**31) % 2**32 - 2**31


def _broken(where):
    return BadPresetError(f"{where} is truncated or damaged: it is no SentencePiece model.")


def _encoded(value):
    """A whole number, seven bits a byte, lowest first."""
    value, parts = value % 2**64, bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes(parts) + bytes([value])


def _whole_field(number, value):
    return _encoded(number << 3) + _encoded(int(value))


def _bytes_field(number, value):
    return _encoded(number << 3 | 2) + _encoded(len(value)) + value
