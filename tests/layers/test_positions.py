"""Where tokens stand, for padding on any side and for packed rows."""

import numpy as np
import pytest
from keras import ops

from keras_gemma.layers import Positions, TokenPositions, visible


def index_of(mask):
    return ops.convert_to_numpy(TokenPositions()(ops.array([mask])).index)[0]


@pytest.mark.parametrize(
    "mask",
    [[1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [0, 1, 1, 1, 0], [1, 0, 1, 0, 1], [1, 1, 1, 1, 1]],
)
def test_real_tokens_count_from_zero_wherever_padding_stands(mask):
    real = np.array(mask) > 0
    assert index_of(mask)[real].tolist() == list(range(real.sum()))


def test_each_document_counts_anew():
    assert index_of([1, 1, 1, 2, 2, 3, 3, 3]).tolist() == [0, 1, 2, 0, 1, 0, 1, 2]


def test_a_mask_may_be_boolean():
    assert index_of([False, True, True])[1:].tolist() == [0, 1]


def test_a_query_sees_its_document_up_to_itself_within_the_window():
    index, segment = np.arange(6)[None], np.array([[1, 1, 1, 1, 2, 2]])
    row = Positions(ops.array(index), ops.array(segment))
    seen = ops.convert_to_numpy(visible(row, row, window=2))[0]
    for query in range(6):
        for key in range(6):
            near = 0 <= query - key < 2
            assert seen[query, key] == (near and segment[0, query] == segment[0, key])
