"""`tokenizer.json` of the tokenizers library, and SentencePiece's model: one made of the other.

Both join the two neighbours that make the best piece, again and again. SentencePiece gives each
piece a score; `tokenizer.json` lists every pair of neighbours, best first. A list of pairs can be
given as scores if it holds all the pairs that make a piece, and those of one piece together: lists
that were made of a SentencePiece model do.
"""

import json
from collections.abc import Iterable
from pathlib import Path
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
    serialize_model,
)
from keras_gemma.presets import bundle
from keras_gemma.presets.errors import BadPresetError

MARK = "▁"  # stands for a space
_SPECIAL = ("bos", "eos", "pad", "unk")
_CONTROL = tuple(f"<{name}>" for name in _SPECIAL[:3])
# Left out of answers by programs that skip special tokens.
_TURNS = ("<start_of_turn>", "<end_of_turn>")
_TO_MARK = {"type": "Replace", "pattern": {"String": " "}, "content": MARK}
_SPLIT = {
    "type": "Split",
    "pattern": {"String": " "},
    "behavior": "MergedWithPrevious",
    "invert": False,
}
_DECODER = {
    "type": "Sequence",
    "decoders": [
        {"type": "Replace", "pattern": {"String": MARK}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ],
}
# The largest that Gemma has is of 33 MB, with 600,000 lists in it.
_LARGEST_FILE, _MOST_LISTS, _MOST_VALUES = 48 * 2**20, 2**20, 2**22


# --- to tokenizer.json ---


def json_of_model(model: PieceModel) -> dict[str, Any] | None:
    """The content of `tokenizer.json`; `None` for a vocabulary that is not of Gemma's kind.

    Such are those that rewrite a text before they cut it, and those that are no BPE.
    """
    rewrites = model.charsmap or model.add_dummy_prefix or model.remove_extra_whitespaces
    kinds = model.types.tolist()
    if model.model_type != BPE or rewrites or not model.escape_whitespaces:
        return None
    if UNUSED in kinds or UNKNOWN not in kinds:
        return None
    unknown = model.pieces[kinds.index(UNKNOWN)]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens(model),
        "normalizer": _TO_MARK,
        "pre_tokenizer": _SPLIT,
        "post_processor": _bos_first(model),
        "decoder": _DECODER,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": unknown,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": model.byte_fallback,
            "ignore_merges": False,
            "vocab": {piece: index for index, piece in enumerate(model.pieces)},
            "merges": [f"{left} {right}" for left, right in _merges(model)],
        },
    }


def added_tokens(model: PieceModel) -> list[dict[str, Any]]:
    """The pieces that are found in a text before it is cut, as `tokenizer.json` lists them."""
    found = []
    for index, (piece, kind) in enumerate(zip(model.pieces, model.types.tolist(), strict=True)):
        if kind in (NORMAL, BYTE, UNUSED):
            continue
        found.append(
            {
                "id": index,
                "content": piece,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                # Runs of spaces are looked for where spaces have become marks.
                "normalized": MARK in piece,
                "special": kind != USER_DEFINED or piece in _TURNS,
            }
        )
    return found


def _merges(model: PieceModel) -> Iterable[tuple[str, str]]:
    """Pairs of pieces that make a third, best first."""
    normal = np.flatnonzero(model.types == NORMAL)
    pieces = {model.pieces[index] for index in normal}
    for index in normal[np.argsort(-model.scores[normal], kind="stable")]:
        yield from _splits(model.pieces[index], pieces)


def _splits(piece, pieces):
    for at in range(1, len(piece)):
        if piece[:at] in pieces and piece[at:] in pieces:
            yield piece[:at], piece[at:]


def _bos_first(model):
    """The record that puts `<bos>` before a text."""
    if _CONTROL[0] not in model.pieces:
        return None
    name = _CONTROL[0]
    bos = {"SpecialToken": {"id": name, "type_id": 0}}
    first, second = ({"Sequence": {"id": part, "type_id": 0}} for part in "AB")
    ids = [model.pieces.index(name)]
    return {
        "type": "TemplateProcessing",
        "single": [bos, first],
        "pair": [bos, first, bos, second],
        "special_tokens": {name: {"id": name, "ids": ids, "tokens": [name]}},
    }


# --- from tokenizer.json ---


def proto_of_json(path: Path) -> bytes:
    """The SentencePiece model that cuts texts as a `tokenizer.json` does, serialized.

    Two things differ, as in Gemma's own SentencePiece model: `<bos>`, `<eos>` and `<pad>` written
    in a text are text, and runs of `▁` in a text are no other than runs of spaces.

    Raises:
        BadPresetError: the file is damaged, or SentencePiece has no way to do what it says.
    """

    def error(problem):
        return BadPresetError(f"{path}: {problem}. Put the vocabulary's tokenizer.model beside it.")

    content = _read(path)
    _check_steps(content, error)
    model = content["model"]
    vocab, merges = model.get("vocab"), model.get("merges")
    if not isinstance(vocab, dict) or not isinstance(merges, list):
        raise error("model.vocab must be an object, and model.merges a list")
    added = _added(content.get("added_tokens"), error)
    pieces, fallback = _in_order(vocab, added, error), bool(model.get("byte_fallback"))
    places = {piece: index for index, piece in enumerate(pieces)}
    unknown = model.get("unk_token")
    if not isinstance(unknown, str) or unknown not in places:
        raise error(f"unk_token={unknown!r:.60} must be one of its tokens")
    types = np.full(len(pieces), NORMAL, "uint8")
    if fallback:
        pieces = _with_byte_pieces(pieces, places, types, error)
    pairs = _pairs(merges, error)
    joined = _joined_runs(added, pairs)
    for token in added:
        if token["content"] not in joined:
            types[token["id"]] = CONTROL if token["content"] in _CONTROL else USER_DEFINED
    types[places[unknown]] = UNKNOWN
    scores = _scores(pieces, types, pairs, error)
    # SentencePiece looks for them where spaces have become marks.
    for index in np.flatnonzero(types == USER_DEFINED):
        pieces[index] = pieces[index].replace(" ", MARK)
    if len(set(pieces)) < len(pieces):
        raise error("two tokens differ in nothing but spaces")
    names = {"unk": unknown, **{n: f"<{n}>" for n in _SPECIAL[:3] if f"<{n}>" in places}}
    ids = {name: places[names[name]] if name in names else -1 for name in _SPECIAL}
    with bundle.reading(path):  # a lone surrogate can't be written
        return serialize_model(
            PieceModel(pieces, scores, types, ids, names, BPE, byte_fallback=fallback)
        )


def _read(path: Path) -> dict[str, Any]:
    with bundle.reading(path), path.open("rb") as file:
        raw = file.read(_LARGEST_FILE + 1)
    lists, values = raw.count(b"[") + raw.count(b"{"), raw.count(b",")
    if len(raw) > _LARGEST_FILE or lists > _MOST_LISTS or values > _MOST_VALUES:
        raise BadPresetError(f"{path} is too large for a tokenizer.json of Gemma's.")
    try:
        content = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadPresetError(f"{path} is not whole JSON ({str(error)[:120]}).") from None
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise BadPresetError(f"{path}: it must be an object, with 'model' an object.")
    return content


def _check_steps(content, error):
    """Raises unless a text goes through the steps that SentencePiece has, too."""
    model, normalizer = content["model"], content.get("normalizer")
    if isinstance(normalizer, dict) and normalizer.get("type") == "Sequence":
        steps = normalizer.get("normalizers")
        normalizer = steps[0] if isinstance(steps, list) and len(steps) == 1 else steps
    if normalizer != _TO_MARK:
        raise error(f"normalizer={normalizer!r:.100} must replace spaces by {MARK!r}")
    if content.get("pre_tokenizer") not in (None, _SPLIT):
        raise error(f"pre_tokenizer={content['pre_tokenizer']!r:.100} is not Gemma's")
    if model.get("type", "BPE") != "BPE":
        raise error(f"model.type={model['type']!r:.60} must be 'BPE'")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"):
        if model.get(name):
            raise error(f"model.{name}={model[name]!r:.60} is nothing that SentencePiece has")
    if not model.get("byte_fallback") and not model.get("fuse_unk"):
        raise error("model.fuse_unk must be true where there is no byte_fallback")


def _added(records, error):
    if not isinstance(records, list):
        raise error("added_tokens must be a list")
    for record in records:
        if not isinstance(record, dict) or type(record.get("id")) is not int:
            raise error(f"added_tokens hold {record!r:.80}, which has no id")
        if not isinstance(record.get("content"), str):
            raise error(f"added_tokens hold {record!r:.80}, which has no content")
        for name in ("single_word", "lstrip", "rstrip"):
            if record.get(name):
                raise error(f"added token {record['content']!r:.60} has {name}=true")
    return records


def _in_order(vocab, added, error):
    """The pieces by their ids, which count from 0; an added token may take an id over."""
    by_id = {}
    for piece, index in vocab.items():
        if type(index) is not int:
            raise error(f"token {piece!r:.60} has the id {index!r:.60}")
        if index in by_id:
            raise error(f"tokens {by_id[index]!r:.60} and {piece!r:.60} have the same id {index}")
        by_id[index] = piece
    by_id |= {token["id"]: token["content"] for token in added}
    if missing := next((index for index in range(len(by_id)) if index not in by_id), None):
        raise error(f"there are {len(by_id)} tokens, and none has the id {missing}")
    pieces, seen = [by_id[index] for index in range(len(by_id))], set()
    for index, piece in enumerate(pieces):
        if piece in seen or not piece:
            raise error(f"token {piece!r:.60} of id {index} is empty or has two ids")
        seen.add(piece)
    return pieces


def _with_byte_pieces(pieces, places, types, error):
    """Marks the pieces that stand for bytes.

    Early conversions of Gemma's call `<0x09>` a tab, as the vocabulary has no piece for one.
    """
    pieces, first = list(pieces), places.get("<0x00>", -1)
    for byte in range(256):
        index = places.get(f"<0x{byte:02X}>", first + byte)
        if first < 0 or index >= len(pieces) or pieces[index] not in (f"<0x{byte:02X}>", chr(byte)):
            raise error(f"byte_fallback is on, and the token <0x{byte:02X}> is missing")
        pieces[index], types[index] = f"<0x{byte:02X}>", BYTE
    return pieces


def _pairs(merges, error):
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in merges]
    for pair in pairs:
        if not isinstance(pair, list) or [type(part) for part in pair] != [str, str]:
            raise error(f"model.merges hold {pair!r:.80}, which is no pair")
    return pairs


def _joined_runs(added, pairs):
    """The runs of marks that come out of pairs, though they are added tokens.

    Those are looked for before spaces become marks, so that a run of spaces is not found. Lists of
    Transformers 5 hold the pairs of one run together; those of older ones are so ordered that the
    longest run comes first, as with tokens that are found.
    """
    ranks: dict[str, list[int]] = {
        token["content"]: []
        for token in added
        if set(token["content"]) == {MARK} and not token.get("normalized")
    }
    for rank, (left, right) in enumerate(pairs):
        if left + right in ranks:
            ranks[left + right].append(rank)
    together = all(not found or found[-1] - found[0] < len(found) for found in ranks.values())
    return {run for run, found in ranks.items() if found} if together else set()


def _scores(pieces, types, pairs, error):
    """Minus the place of the first pair that makes a piece; the pieces of no pair become unused."""
    places = {pieces[index]: int(index) for index in np.flatnonzero(types == NORMAL)}
    first, count, last = [len(pairs)] * len(pieces), [0] * len(pieces), None
    for rank, (left, right) in enumerate(pairs):
        made = places.get(left + right)
        if made is None or left not in places or right not in places:
            continue  # a token that is found before texts are cut
        if made != last:
            if count[made]:
                raise error(f"pairs that make {left + right!r:.60} are apart in the list")
            first[made], last = rank, made
        count[made] += 1
    letters = {piece for piece in places if len(piece) == 1}
    for piece, index in places.items():
        if len(piece) == 1:
            continue
        awaited = sum(1 for _ in _splits(piece, places))
        if count[index] == 0 or not letters.issuperset(piece):
            types[index] = UNUSED  # nothing makes it, and nothing shall
        elif count[index] != awaited:
            raise error(
                f"{piece!r:.60} is made by {count[index]} pairs in the list and by {awaited} in "
                "SentencePiece, which joins whatever makes a token"
            )
    return -np.array(first, "float32")
