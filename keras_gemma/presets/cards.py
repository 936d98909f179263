"""What a preset's card holds. Adding a preset is adding such a file, and no Python."""

import re
from collections.abc import Mapping
from typing import Any

from keras_gemma.presets.errors import BadPresetError
from keras_gemma.presets.fields import check_backbone
from keras_gemma.presets.sizes import BYTES_PER_NUMBER

KINDS = {
    "base": "continues a text",
    "instruct": "answers in turns",
    "code": "continues code and fills gaps in it",
    "code instruct": "answers in turns, about code",
    "safety": "says whether a text breaks a rule",
}

_FIELDS = {
    "description": str,
    "family": str,
    "kind": str,
    "backbone": str,
    "architecture": dict,
    "parameters": int,
    "context_length": int,
    "dtype": str,
    "sources": dict,  # handles, by where they lead: "kaggle", "huggingface"; {} if bundled
    "licence": dict,  # name, text (a page), accept_at: pages by source; {} if there is nothing to do
    "bundled": bool,
}
_TRAINING = {
    "corpus": list,  # of {title, licence, package, share}
    "tokens_seen": int,
    "held_out_bits_per_byte": dict,  # by held-out text
    "date": str,
    "command": str,
}
_CORPUS = {"title": str, "licence": str, "package": str, "share": (int, float)}
_CHECKSUM = {"sha256": str, "size": int}
_SKILL = {"accuracy": (int, float), "questions": int, "held_out": bool}


def check_card(card: dict[str, Any], where: str) -> dict[str, Any]:
    """The card, seen to hold what a card holds.

    A bundled preset's card has, beside the common fields, `training` (corpus, tokens seen,
    held-out bits per byte, date, command), and may have `skills` (accuracy of each over how many
    questions, and whether its items were held out from training) and `stories`.

    Any card may have `checksums` (by source and file) and `golden_logits`: both are recorded where
    there is a network, and never typed in.

    Raises:
        BadPresetError: it names the file and the field.
    """
    _check(card, _FIELDS, where)
    if card["kind"] not in KINDS:
        raise BadPresetError(f"{where}: kind={card['kind']!r} must be one of {', '.join(KINDS)}.")
    if card["dtype"] not in BYTES_PER_NUMBER:
        raise BadPresetError(f"{where}: dtype={card['dtype']!r} is none of float32, bfloat16, ….")
    check_backbone(card["backbone"], card["architecture"], f"{where}, architecture")
    _check(card["licence"], {"name": str, "text": str, "accept_at": dict}, f"{where}, licence")
    _check_recorded(card, where)
    if not card["bundled"]:
        if not card["sources"] or set(card["sources"]) != set(card["licence"]["accept_at"]):
            raise BadPresetError(f"{where}: each of sources needs a page in licence.accept_at.")
        return card
    _check(card.get("training"), _TRAINING, f"{where}, training")
    for number, part in enumerate(card["training"]["corpus"]):
        _check(part, _CORPUS, f"{where}, training.corpus[{number}]")
    for name, skill in card.get("skills", {}).items():
        _check(skill, _SKILL, f"{where}, skills[{name!r}]")
    return card


def _check_recorded(card, where):
    if not isinstance(card.get("golden_logits", {}), Mapping):
        raise BadPresetError(f"{where}: golden_logits must be an object.")
    sums = card.get("checksums", {})
    for source, files in _items(sums, f"{where}, checksums"):
        if source not in card["sources"]:
            raise BadPresetError(f"{where}: checksums are of {source!r}, which is no source.")
        for file, told in _items(files, f"{where}, checksums[{source!r}]"):
            place = f"{where}, checksums[{source!r}][{file!r}]"
            _check(told, _CHECKSUM, place)
            if not re.fullmatch("[0-9a-f]{64}", told["sha256"]):
                raise BadPresetError(f"{place}: a sha256 has 64 hexadecimal digits.")


def _items(value, where):
    if not isinstance(value, Mapping):
        raise BadPresetError(f"{where} must be an object.")
    return value.items()


def _check(value, fields, where):
    if not isinstance(value, Mapping):
        raise BadPresetError(f"{where} is missing or not an object.")
    for name, kind in fields.items():
        if name not in value:
            raise BadPresetError(f"{where} lacks the field {name!r}.")
        if not isinstance(value[name], kind):
            raise BadPresetError(f"{where}: {name} can't be a {type(value[name]).__name__}.")
