"""What people pass to `fit`, made into batches of integers.

Texts, pairs and conversations go through the model's preprocessor; integers pass as they are.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_gemma.models.text_batches import (
    TextBatches,
    TextDataset,
    by_row,
    count,
    features,
    select,
)


def is_tf_dataset(x: Any) -> bool:
    """Whether `x` is a `tf.data.Dataset`; asked without importing TensorFlow."""
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and isinstance(x, tensorflow.data.Dataset)


def is_text(x: Any) -> bool:
    """Whether `x` is for the preprocessor: strings, pairs of them, or conversations."""
    if isinstance(x, str):
        return True
    if isinstance(x, Mapping):
        return bool({"prompts", "responses", "messages"} & set(x))
    if isinstance(x, np.ndarray):
        return x.dtype.kind in "USO"
    if isinstance(x, Sequence) and len(x):
        return is_text(x[0])
    return getattr(getattr(x, "dtype", None), "name", "") == "string"  # a TensorFlow tensor


def to_batches(x, preprocessor, batch_size=None, shuffle=False):
    """`x` as something Keras's `fit` takes: batches of `(inputs, labels, weights)`."""
    if is_tf_dataset(x):
        return x.map(_needed(preprocessor)) if _spec_is_text(x.element_spec) else x
    if isinstance(x, keras.utils.PyDataset):
        return TextDataset(x, _needed(preprocessor)) if is_text(features(x[0])) else x
    if is_text(x):
        return TextBatches(x, _needed(preprocessor), batch_size or 32, shuffle)
    return x


def split(texts, share):
    """The first texts, and the last `share` of them, to train on and to validate with."""
    texts = by_row(texts)
    total = count(texts)
    first = total - int(total * share)
    return select(texts, range(first)), select(texts, range(first, total))


def _needed(preprocessor):
    if preprocessor is None:
        raise ValueError(
            "Text needs a preprocessor, and this model has none (preprocessor=None). Attach one, "
            "or give integers: x={'token_ids', 'padding_mask'}, y and sample_weight."
        )
    return preprocessor


def _spec_is_text(spec):
    spec = features(spec)
    if isinstance(spec, Mapping):
        return all(_spec_is_text(part) for part in spec.values())
    return getattr(getattr(spec, "dtype", None), "name", "") == "string"
