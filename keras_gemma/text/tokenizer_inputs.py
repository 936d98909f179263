"""What people hand to a tokenizer, brought to one form; what is wrong with it, said with its place."""

import base64
import binascii
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def proto_bytes(proto):
    if isinstance(proto, bytes):
        return proto
    if isinstance(proto, str) and len(proto) > 2048:  # longer than a path may be
        with contextlib.suppress(binascii.Error):
            return base64.b64decode(proto, validate=True)
    if isinstance(proto, (str, Path)):
        return Path(proto).read_bytes()
    raise TypeError(f"`proto` is a path or bytes, not {type(proto).__name__}.")


def dtype_name(dtype):
    if isinstance(dtype, dict):  # a serialized DTypePolicy, as KerasHub writes it
        dtype = dtype["config"]["name"]
    name = getattr(dtype, "name", dtype)
    if name != "string" and np.dtype(name).kind not in "iu":
        raise ValueError(f"A tokenizer gives integers or 'string', not dtype={name!r}.")
    return name if name == "string" else np.dtype(name).name


def is_tf_tensor(value):
    """Asked without importing TensorFlow: who holds one of its tensors has imported it."""
    tensorflow = sys.modules.get("tensorflow")
    kinds = tensorflow and (tensorflow.Tensor, tensorflow.RaggedTensor)
    return bool(kinds) and isinstance(value, kinds)


def is_in_graph():
    """Whether a TensorFlow graph is being traced: its tensors have no values yet."""
    return not sys.modules["tensorflow"].executing_eagerly()


def collect_texts(inputs, texts, where):
    """Put all texts of nested lists into one list; the nesting comes back, leaves as `None`."""
    if isinstance(inputs, (np.ndarray, np.generic)):
        inputs = inputs.tolist()
    if isinstance(inputs, bytes):
        try:
            inputs = inputs.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"The bytes{at_position(where)} are not UTF-8: {error}.") from None
    if isinstance(inputs, str):
        return texts.append(inputs)
    if isinstance(inputs, Sequence):
        return [collect_texts(part, texts, (*where, i)) for i, part in enumerate(inputs)]
    raise TypeError(
        f"A text or a list of texts was awaited{at_position(where)}, not {type(inputs).__name__}."
    )


def flat_texts(inputs):
    """`(texts, batched)` of one text or of a flat list of texts."""
    texts = []
    shape = collect_texts(inputs, texts, ())
    for i, part in enumerate(shape or ()):
        if part is not None:
            raise TypeError(f"A text was awaited{at_position((i,))}, not a list of them.")
    return texts, shape is not None


def rebuild(shape, rows):
    return next(rows) if shape is None else [rebuild(part, rows) for part in shape]


def at_position(where):
    return f" at position {', '.join(map(str, where))}" if where else ""


def surrogate_message(text, number):
    at = next(i for i, letter in enumerate(text) if "\ud800" <= letter <= "\udfff")
    return (
        f"Text {number} holds a lone surrogate {text[at]!a} at character {at}, which is no Unicode "
        "text. Read it with errors='replace', or take it out."
    )
