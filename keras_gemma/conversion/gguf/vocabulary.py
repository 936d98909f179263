"""A SentencePiece vocabulary as keys of a GGUF file, and back.

llama.cpp's converter writes Gemma's `<start_of_turn>` and its like, which are user-defined pieces
of the vocabulary, as control tokens, and spaces within user-defined pieces as they are.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_gemma.conversion.sentencepiece_proto import (
    BPE,
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    PieceModel,
    parse_model,
    serialize_model,
)
from keras_gemma.presets.errors import BadPresetError

WHITESPACE_MARK = "\u2581"  # what a space is in a piece
# What the converter takes for a control token, beside `<|…|>` and `<unused…>`.
CONTROL_NAMES = {
    "<start_of_turn>",
    "<end_of_turn>",
    "<start_of_image>",
    "<end_of_image>",
    "<mask>",
    "<2mass>",
    "[@BOS@]",
}
_IDS = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
# Programs stop at these, or fill in code with them.
_EXTRA_IDS = {
    "<end_of_turn>": "eot",
    "<|fim_prefix|>": "fim_pre",
    "<|fim_middle|>": "fim_mid",
    "<|fim_suffix|>": "fim_suf",
    "<|file_separator|>": "fim_sep",
}
_PREFIX = "tokenizer.ggml."


def vocabulary_metadata(
    proto: bytes, vocabulary_size: int | None = None, chat_template: str | None = None
) -> dict[str, Any]:
    """The keys that hold a vocabulary.

    Args:
        proto: a serialized SentencePiece model.
        vocabulary_size: rows of the embedding table. Programs take it from the number of pieces,
            so those that lack are made up, as unused ones.
        chat_template: Jinja text that renders conversations, such as
            `chat_template.CHAT_TEMPLATE`; for models that were tuned for them.

    Raises:
        ValueError: if GGUF has no way to say how this model cuts a text.
    """
    model = parse_model(proto)
    if model.model_type != BPE or model.charsmap:
        raise ValueError(
            "GGUF holds SentencePiece models of type BPE that change no letters, as Gemma's are. "
            f"This one is of type {model.model_type} with the normalizer {model.normalizer!r}."
        )
    pieces, types, scores = list(model.pieces), model.types.astype("int32"), model.scores
    for index in np.flatnonzero(types == USER_DEFINED):
        if _looks_like_control(pieces[index]):
            types[index] = CONTROL
        else:
            pieces[index] = pieces[index].replace(WHITESPACE_MARK, " ")
    lacking = max((vocabulary_size or 0) - len(pieces), 0)
    pieces += [_filler(len(pieces) + i) for i in range(lacking)]
    metadata: dict[str, Any] = {
        "model": "llama",
        "pre": "default",
        "tokens": pieces,
        "scores": np.concatenate([scores, np.full(lacking, -10000, "float32")]),
        "token_type": np.concatenate([types, np.full(lacking, UNUSED, "int32")]),
    }
    places = {piece: index for index, piece in enumerate(pieces)}
    ids = {key: places.get(model.names[name]) for name, key in _IDS.items()}
    ids |= {key: places.get(name) for name, key in _EXTRA_IDS.items()}
    metadata |= {f"{key}_token_id": index for key, index in ids.items() if index is not None}
    metadata |= {
        "add_bos_token": True,
        "add_eos_token": False,
        "add_space_prefix": model.add_dummy_prefix,
        "remove_extra_whitespaces": model.remove_extra_whitespaces,
    }
    metadata = {f"{_PREFIX}{key}": value for key, value in metadata.items()}
    return metadata | ({"tokenizer.chat_template": chat_template} if chat_template else {})


def vocabulary_proto(metadata: Mapping[str, Any], where: str) -> bytes:
    """The SentencePiece model that a GGUF file's keys hold, serialized.

    Raises:
        BadPresetError: if there is none, or its keys contradict each other; `where` is the file.
    """

    def error(problem):
        return BadPresetError(f"{where}: {problem}.")

    kind, pieces = metadata.get(f"{_PREFIX}model"), metadata.get(f"{_PREFIX}tokens")
    if kind != "llama" or not isinstance(pieces, list) or not pieces:
        raise error(
            f"its tokenizer is {str(kind)[:80]!r} with {type(pieces).__name__} tokens; "
            "SentencePiece's, 'llama' with a list of pieces, is read"
        )
    scores = _array(metadata, "scores", "f", len(pieces), error)
    types = _array(metadata, "token_type", "iu", len(pieces), error)
    if not np.isfinite(scores).all():
        raise error("a score of a token is not finite")
    if types.min() < NORMAL or types.max() > BYTE:
        raise error(f"types of tokens are {NORMAL} to {BYTE}, not {types.min()} to {types.max()}")
    types, count = types.astype("uint8"), len(pieces)
    while count and types[count - 1] == UNUSED and pieces[count - 1] == _filler(count - 1):
        count -= 1  # made up to fill the embedding table
    pieces, scores, types = pieces[:count], scores[:count].astype("float32"), types[:count]
    ids = {name: _id(metadata, key, count, error) for name, key in _IDS.items()}
    if ids["unk"] < 0:
        ids["unk"] = int(np.argmax(types == UNKNOWN))
    types[ids["unk"]] = UNKNOWN
    if (types == UNKNOWN).sum() != 1:
        raise error("there must be one token of the type 'unknown'")
    for index, piece in enumerate(pieces):
        if types[index] == USER_DEFINED:
            pieces[index] = piece.replace(" ", WHITESPACE_MARK)
        elif types[index] == CONTROL and index not in ids.values():
            types[index] = USER_DEFINED if _looks_like_control(piece) else CONTROL
        elif types[index] == NORMAL and piece in _EXTRA_IDS:  # early converters told of no type
            types[index] = USER_DEFINED
    if "" in pieces or len(set(pieces)) < count:
        raise error("two tokens are alike, or one is empty")
    model = PieceModel(
        pieces,
        scores,
        types,
        byte_fallback=bool((types == BYTE).any()),
        ids=ids,
        names={name: pieces[index] for name, index in ids.items() if index >= 0},
        add_dummy_prefix=_switch(metadata, "add_space_prefix", error),
        remove_extra_whitespaces=_switch(metadata, "remove_extra_whitespaces", error),
    )
    return serialize_model(model)


def _looks_like_control(piece):
    return (
        piece in CONTROL_NAMES
        or (piece.startswith("<|") and piece.endswith("|>"))
        or (piece.startswith("<unused") and piece.endswith(">"))
    )


def _filler(index):
    return f"[PAD{index}]"


def _array(metadata, key, kinds, length, error):
    value = metadata.get(f"{_PREFIX}{key}")
    if not isinstance(value, np.ndarray) or value.dtype.kind not in kinds or len(value) != length:
        raise error(f"{_PREFIX}{key} must be an array of {length} numbers, one for each token")
    return value


def _id(metadata, key, count, error):
    value = metadata.get(f"{_PREFIX}{key}_token_id", -1)
    if type(value) is not int or not -1 <= value < count:
        raise error(
            f"{_PREFIX}{key}_token_id={value!r:.60} must be the id of one of {count} tokens"
        )
    return value


def _switch(metadata, key, error):
    value = metadata.get(f"{_PREFIX}{key}", False)
    if not isinstance(value, bool):
        raise error(f"{_PREFIX}{key} must be true or false")
    return value
