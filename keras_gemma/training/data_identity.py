"""By what the data of a run are known again."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_gemma.models.labelled_texts import LabelledTexts
from keras_gemma.models.text_batches import TextBatches


def data_fingerprint(data: Any, beside: Sequence[Any] = ()) -> dict[str, Any]:
    """What must be equal when a run is resumed: kind, batches, and a hash where there is one.

    Batches of ours hash all of their texts, and arrays all of their numbers and of those `beside`
    them. Of other data sets with an index the first batch, the one in the middle and the last are
    taken, if they are the same when asked for twice. Of streams nothing is known.
    """
    found = {"kind": type(data).__name__}
    if isinstance(data, (TextBatches, LabelledTexts)):
        found |= {"batches": data.num_batches, "batch_size": data.batch_size}
        return {**found, "sha256": data.fingerprint()}
    if isinstance(data, keras.utils.PyDataset):
        last = (data.num_batches or 1) - 1
        once, again = ([digest(data[i]) for i in (0, last // 2, last)] for _ in range(2))
        found["batches"] = data.num_batches
        if once == again:
            found["sha256"] = digest([np.frombuffer(part.encode(), "uint8") for part in once])
    elif _is_arrays(data):
        found |= {"rows": len(keras.tree.flatten(data)[0]), "sha256": digest([data, beside])}
    return found


def digest(batch: Any) -> str:
    """A hash of all numbers of some arrays.

    >>> digest({"a": np.ones(2)}) == digest({"a": np.ones(2)}) != digest({"a": np.zeros(2)})
    True
    """
    found = hashlib.sha256()
    for part in keras.tree.flatten(batch):
        found.update(
            np.ascontiguousarray(keras.ops.convert_to_numpy(part)).reshape(-1).view("uint8")
        )
    return found.hexdigest()


def difference(stored: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """What two fingerprints tell of otherwise, the first such thing."""
    for key in stored:
        if stored[key] != here.get(key):
            return f"{key} {stored[key]} there, {here.get(key)} here"
    return f"{stored} there, {here} here"


def _is_arrays(data):
    parts = keras.tree.flatten(data)
    return bool(parts) and all(
        np.ndim(part) and hasattr(part, "shape") and hasattr(part, "dtype") for part in parts
    )
