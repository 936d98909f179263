"""Where tokens stand, and which of them see each other.

B batch, T tokens (of queries), S tokens (of keys).
"""

from typing import Any, NamedTuple

import keras
from keras import ops

_MOST_STEPS = 20  # for a million tokens


class Positions(NamedTuple):
    """The place of each token of a batch.

    index: int32 BT, the token's place in its document, from 0.
    segment: int32 BT, the number of its document; 0 is padding, -1 an empty slot of a cache.
    """

    index: Any
    segment: Any


@keras.saving.register_keras_serializable(package="keras_gemma")
class TokenPositions(keras.layers.Layer):
    """Segment numbers (a padding mask is one) to `Positions`.

    The index counts a document's tokens wherever padding stands: left, right or between.

    >>> positions = TokenPositions()(keras.ops.array([[0, 1, 1, 2, 2, 2, 0]]))
    >>> keras.ops.convert_to_numpy(positions.index).tolist()
    [[0, 0, 1, 0, 1, 2, 3]]
    """

    def call(self, segments):
        segment_BT = ops.cast(segments, "int32")
        real_BT = ops.cast(segment_BT > 0, "int32")
        count_BT = ops.cumsum(real_BT, axis=1) - real_BT  # real tokens before this one
        highest_BT = _running_maximum(segment_BT)
        before_BT = ops.pad(highest_BT[:, :-1], [[0, 0], [1, 0]])
        starts_BT = highest_BT > before_BT  # a higher number opens a new document
        first_BT = _running_maximum(ops.where(starts_BT, count_BT, ops.zeros_like(count_BT)))
        # PyTorch's scan makes floats of whole numbers.
        return Positions(ops.cast(count_BT - first_BT, "int32"), segment_BT)

    def compute_output_spec(self, segments):
        index, segment = (keras.KerasTensor(segments.shape, "int32") for _ in range(2))
        return Positions(index, segment)


def _running_maximum(x_BT):
    """The largest of each place and those before it, none of them negative.

    By doubling: after n steps each place has seen 2**n of them. Of a length that is not known before
    (TensorFlow's graphs have such), Keras's own scan makes a graph that takes a minute to trace.
    """
    length = x_BT.shape[1]
    for step in range(_MOST_STEPS if length is None else (length - 1).bit_length()):
        before_BT = ops.pad(x_BT, [[0, 0], [2**step, 0]])[:, : ops.shape(x_BT)[1]]
        x_BT = ops.maximum(x_BT, before_BT)
    return x_BT


def visible(queries: Positions, keys: Positions, window: int | None = None):
    """Which keys a query may look at, bool BTS.

    A query sees a key of its own segment, not later than itself, and not farther back than the
    window. That is causality, padding, packing, sliding windows and empty cache slots in one.

    >>> row = Positions(keras.ops.array([[0, 1, 2]]), keras.ops.array([[1, 1, 1]]))
    >>> keras.ops.convert_to_numpy(visible(row, row, window=2)).astype(int).tolist()
    [[[1, 0, 0], [1, 1, 0], [0, 1, 1]]]
    """
    distance_BTS = queries.index[:, :, None] - keys.index[:, None, :]
    same_BTS = ops.equal(queries.segment[:, :, None], keys.segment[:, None, :])
    seen_BTS = ops.logical_and(same_BTS, distance_BTS >= 0)
    if window is None:
        return seen_BTS
    return ops.logical_and(seen_BTS, distance_BTS < window)
