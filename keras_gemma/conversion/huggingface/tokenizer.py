"""The tokenizer of a Transformers folder: its vocabulary, and which of its pieces mean what."""

import json
from typing import Any

from keras_gemma.conversion.huggingface.tokenizer_json import added_tokens, json_of_model
from keras_gemma.conversion.sentencepiece_proto import PieceModel

_TURNS = ("<start_of_turn>", "<end_of_turn>")
_SPECIAL = ("bos", "eos", "pad", "unk")


def token_ids(model: PieceModel) -> dict[str, int]:
    """The ids of "bos", "eos" and "pad", those that there are."""
    names = {name: f"<{name}>" for name in _SPECIAL[:3]}
    return {n: model.pieces.index(piece) for n, piece in names.items() if piece in model.pieces}


def stop_ids(model: PieceModel) -> list[int]:
    """The ids that end an answer."""
    return [i for i, piece in enumerate(model.pieces) if piece in ("<eos>", _TURNS[1])]


def tokenizer_files(
    model: PieceModel, context_length: int, template: str | None = None
) -> dict[str, bytes]:
    """Files by name; `tokenizer.model`, the vocabulary itself, comes beside them.

    `tokenizer.json` is left out for vocabularies that it can't hold; Transformers then makes its
    tokenizer of `tokenizer.model`.
    """
    names = {f"{name}_token": f"<{name}>" for name in _SPECIAL if f"<{name}>" in model.pieces}
    files = {
        "tokenizer_config.json": encoded(_config(model, names, context_length, template)),
        "special_tokens_map.json": encoded(names),
    }
    if (fast := json_of_model(model)) is not None:
        # Without line breaks: Gemma's has half a million merges.
        files["tokenizer.json"] = json.dumps(fast, ensure_ascii=False).encode()
    return files


def _config(
    model: PieceModel, names: dict[str, str], context_length: int, template: str | None
) -> dict[str, Any]:
    tokens = {str(token["id"]): token for token in added_tokens(model)}
    config = {
        "tokenizer_class": "GemmaTokenizer",
        **names,
        # Transformers would add one that the embedding table has no row for.
        "mask_token": "<mask>" if "<mask>" in model.pieces else None,
        "add_bos_token": True,
        "add_eos_token": False,
        "added_tokens_decoder": {
            index: {key: value for key, value in token.items() if key != "id"}
            for index, token in tokens.items()
        },
        "clean_up_tokenization_spaces": False,
        "model_max_length": context_length,
        "spaces_between_special_tokens": False,
    }
    if template is not None:
        config["chat_template"] = template
    return config


def encoded(value: dict[str, Any]) -> bytes:
    """A JSON file's bytes."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
