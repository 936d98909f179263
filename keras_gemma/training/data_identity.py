"""By what the data of a run are known again."""

import hashlib
from typing import Any

import keras
import numpy as np

from keras_gemma.models.text_batches import TextBatches


def data_fingerprint(data: Any) -> dict[str, Any]:
    """What must be equal when a run is resumed: kind, batches, and a hash where there is one.

    Batches of ours hash all of their texts. Of other data sets with an index the first batch is
    taken, if it is the same when asked for twice. Of streams nothing is known.
    """
    found = {"kind": type(data).__name__}
    if isinstance(data, TextBatches):
        found |= {"batches": data.num_batches, "batch_size": data.batch_size}
        return {**found, "sha256": data.fingerprint()}
    if isinstance(data, keras.utils.PyDataset):
        once, again = _digest(data[0]), _digest(data[0])
        found["batches"] = data.num_batches
        if once == again:
            found["sha256"] = once
    return found


def _digest(batch):
    digest = hashlib.sha256()
    for part in keras.tree.flatten(batch):
        digest.update(
            np.ascontiguousarray(keras.ops.convert_to_numpy(part)).reshape(-1).view("uint8")
        )
    return digest.hexdigest()
