"""A table of rules that runs both ways."""

import numpy as np
import pytest

from keras_gemma.conversion.weight_map import Rule, entries

pytestmark = pytest.mark.once

SHAPES = {"block_0/q": (4, 6, 5), "block_0/k": (2, 6, 5), "block_1/q": (4, 6, 5), "norm": (6,)}


@pytest.mark.parametrize(
    "pattern, shape",
    [
        ("(n h) d -> n d h", (20, 6)),
        ("d (n h) -> n d h", (6, 20)),
        ("n h d -> n d h", (4, 5, 6)),
        ("1 n d h -> n d h", (1, 4, 6, 5)),
        ("h (d n) -> n d h", (5, 24)),
        ("", (4, 6, 5)),
    ],
)
def test_there_and_back_is_the_same(pattern, shape):
    ours = np.arange(120.0).reshape(4, 6, 5)
    (entry,) = entries([Rule("block_{i}/q", "{i}.q", pattern)], {"block_0/q": ours.shape})
    theirs = entry.to_theirs({"block_0/q": ours})
    assert theirs.shape == entry.shape == shape
    ((path, back),) = entry.to_ours(theirs)
    assert path == "block_0/q" and np.array_equal(back, ours)


def test_an_axis_goes_where_the_pattern_says():
    q = np.arange(120.0).reshape(4, 6, 5)
    (entry,) = entries([Rule("q", "q", "(n h) d -> n d h")], {"q": q.shape})
    theirs = entry.to_theirs({"q": q})
    for head in range(4):
        for place in range(5):
            assert np.array_equal(theirs[5 * head + place], q[head, :, place])


def test_one_tensor_may_hold_several_of_ours():
    random = np.random.default_rng(0)
    shapes = {name: shape for name, shape in SHAPES.items() if "block_0" in name}
    ours = {name: random.normal(size=shape) for name, shape in shapes.items()}
    rule = Rule(("block_{i}/q", "block_{i}/k"), "{i}.qk", "(n h) d -> n d h")
    (entry,) = entries([rule], shapes)
    assert entry.shape == (30, 6)
    back = dict(entry.to_ours(entry.to_theirs(ours)))
    assert all(np.array_equal(back[name], ours[name]) for name in ours)


def test_an_offset_is_added_on_the_way_out():
    (entry,) = entries([Rule("norm", "norm", offset=1)], {"norm": (6,)})
    assert (entry.to_theirs({"norm": np.zeros(6, "float32")}) == 1).all()
    assert (dict(entry.to_ours(np.ones(6, "float32")))["norm"] == 0).all()


def test_layers_are_counted_and_the_first_may_have_no_number():
    rules = [Rule("block_{i}/q", "block{_i}/q"), Rule("block_{i}/k", "{i}.k"), Rule("norm", "n")]
    assert [entry.theirs for entry in entries(rules, SHAPES)] == [
        "block/q",
        "block_1/q",
        "0.k",
        "n",
    ]


def test_a_table_that_forgets_a_weight_or_names_one_twice_is_at_fault():
    with pytest.raises(ValueError, match="No rule speaks of block_0/k, norm"):
        entries([Rule("block_{i}/q", "{i}.q")], SHAPES)
    with pytest.raises(ValueError, match="Two rules speak of norm"):
        entries([Rule("norm", "a"), Rule("norm", "b")], {"norm": (6,)})
