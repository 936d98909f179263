"""Which tokens may be drawn: top-k, top-p, min-p and typical sampling.

B rows, V vocabulary, C candidates: tokens and their probabilities, likeliest first. Probabilities
need not sum to one after a cut.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from keras import ops

from keras_gemma.samplers.steps import column


class Truncation(NamedTuple):
    """How much is kept: each a number, an array B of one per row, or `None` for no such cut.

    Top-k, top-p and min-p look at the whole distribution each, and what all of them keep is kept,
    as in KerasHub and gemma_pytorch. Typical sampling looks at what they leave.
    """

    top_k: Any = None  # the k likeliest
    top_p: Any = None  # the likeliest, until they hold more than this
    min_p: Any = None  # those with this share of the likeliest one's probability (arXiv 2407.01082)
    typical_p: Any = None  # those of the usual surprise, until they hold this (arXiv 2202.00666)


class Spread(NamedTuple):
    """What typical sampling asks of a distribution."""

    mass: Any  # B1
    entropy: Any  # B1, in nats, of the distribution scaled to one


def draw_truncated(probabilities_BV, cut: Truncation, draw: Callable, few: int | None):
    """One token of each row among those that are kept, int32 B.

    Args:
        probabilities_BV: the distribution.
        cut: what to keep.
        draw: `(probabilities_BC, ids_BC) -> tokens_B`; ids of `None` are those of the vocabulary.
        few: candidates that are looked at first. They hold all that may be drawn nearly always,
            and the vocabulary is sorted only where they don't. `None` sorts it always and has no
            condition in it, for programs that can't branch.
    """

    def drawn(probabilities, ids=None):
        return ops.cast(draw(probabilities, ids), "int32")

    if cut.top_k is None and cut.top_p is None and cut.typical_p is None:
        return drawn(drop_unlikely(probabilities_BV, cut.min_p))
    width = probabilities_BV.shape[-1]
    most = min(cut.top_k, width) if isinstance(cut.top_k, int) else width

    def from_all():
        return drawn(*keep_typical(*leading(*most_likely(probabilities_BV, most), cut), cut))

    if few is None or most <= few:
        return from_all()
    likely_BC, ids_BC = leading(*most_likely(probabilities_BV, few), cut)
    settled_B, spread = _settled(probabilities_BV, likely_BC, cut)

    def from_few():
        return drawn(*keep_typical(likely_BC, ids_BC, cut, spread))

    # Rows that keep the order of no token in mind are drawn from the whole without sorting it.
    free_B = _is_whole(cut, width)
    if cut.typical_p is not None:
        free_B = free_B & (cut.typical_p >= 1)
    unsettled_B = ops.logical_not(settled_B)
    if free_B is False:
        return ops.cond(ops.any(unsettled_B), from_all, from_few)
    loose_B = ops.logical_and(unsettled_B, free_B)
    unsettled_B = ops.logical_and(unsettled_B, ops.logical_not(free_B))
    ordered_B = ops.cond(ops.any(unsettled_B), from_all, from_few)
    unordered_B = ops.cond(
        ops.any(loose_B),
        lambda: drawn(drop_unlikely(probabilities_BV, cut.min_p)),
        lambda: ordered_B,
    )
    return ops.where(loose_B, unordered_B, ordered_B)


def most_likely(probabilities_BV, k: int | None):
    """The `k` largest probabilities, largest first, and their tokens; all of them for `None`."""
    width = probabilities_BV.shape[-1]
    return ops.top_k(probabilities_BV, k=min(k or width, width), sorted=True)


def drop_unlikely(probabilities_BV, min_p):
    """Zero what has less than `min_p` of the likeliest token's probability.

    >>> ops.convert_to_numpy(drop_unlikely(ops.array([[0.125, 0.5, 0.25]]), 0.5)).tolist()
    [[0.0, 0.5, 0.25]]
    """
    if min_p is None:
        return probabilities_BV
    least_B1 = column(min_p) * ops.max(probabilities_BV, axis=-1, keepdims=True)
    return ops.where(probabilities_BV >= least_B1, probabilities_BV, 0.0)


def leading(likely_BC, ids_BC, cut: Truncation):
    """Zero what top-k, top-p or min-p drop: always the last ones, never the first.

    >>> likely, ids = ops.array([[0.5, 0.25, 0.125]]), ops.array([[7, 3, 9]])
    >>> ops.convert_to_numpy(leading(likely, ids, Truncation(top_p=0.6))[0]).tolist()
    [[0.5, 0.25, 0.0]]
    """
    kept_BC = likely_BC
    if cut.top_k is not None:
        rank_C = ops.arange(likely_BC.shape[-1], dtype="float32")[None]
        kept_BC = ops.where(rank_C < column(cut.top_k), kept_BC, 0.0)
    if cut.top_p is not None:
        share = column(cut.top_p)
        within_BC = _before(likely_BC) <= share
        if isinstance(share, float | int):
            kept_BC = kept_BC if share >= 1 else ops.where(within_BC, kept_BC, 0.0)
        else:  # the sum of all may well round to more than 1
            kept_BC = ops.where(ops.logical_or(within_BC, share >= 1), kept_BC, 0.0)
    return drop_unlikely(kept_BC, cut.min_p), ids_BC


def keep_typical(likely_BC, ids_BC, cut: Truncation, spread: Spread | None = None):
    """Keep the fewest tokens that hold `cut.typical_p`, those of the most usual surprise first.

    A token's surprise is minus its log-probability; the usual one is the entropy. The result comes
    in that order. `spread` is of the whole where the candidates are a part of it.

    >>> likely, ids = ops.array([[0.5, 0.25, 0.125, 0.125]]), ops.array([[7, 3, 9, 4]])
    >>> kept, ids = keep_typical(likely, ids, Truncation(typical_p=0.6))
    >>> ops.convert_to_numpy(kept).tolist(), ops.convert_to_numpy(ids).tolist()
    ([[0.25, 0.5, 0.0, 0.0]], [[3, 7, 9, 4]])
    """
    if cut.typical_p is None:
        return likely_BC, ids_BC
    spread, share = spread or spread_of(likely_BC), column(cut.typical_p)
    order_BC = ops.argsort(_distance(likely_BC, spread), axis=-1)
    likely_BC, ids_BC = (ops.take_along_axis(x, order_BC, axis=-1) for x in (likely_BC, ids_BC))
    kept_BC = _before(likely_BC / spread.mass) < share
    if not isinstance(share, (int, float)):
        kept_BC = ops.logical_or(kept_BC, share >= 1)
    return ops.where(kept_BC, likely_BC, 0.0), ids_BC


def spread_of(probabilities_BC) -> Spread:
    """Sum and entropy of each row."""
    mass_B1 = ops.sum(probabilities_BC, axis=-1, keepdims=True)
    weighted = ops.sum(probabilities_BC * _log(probabilities_BC), axis=-1, keepdims=True)
    return Spread(mass_B1, ops.log(mass_B1) - weighted / mass_B1)


def _settled(probabilities_BV, likely_BC, cut):
    """Whether the candidates hold all that may be drawn, B; and the spread of what may be."""
    # Where the last of them is dropped, what follows would be, too.
    settled_B = likely_BC[:, -1] <= 0
    if cut.typical_p is None:
        return settled_B, None
    whole = spread_of(drop_unlikely(probabilities_BV, cut.min_p))
    spread = Spread(
        *(ops.where(settled_B[:, None], x, y) for x, y in zip(spread_of(likely_BC), whole))
    )
    # What follows the last candidate is more surprising than it; once that is more than usual, it
    # comes after all candidates that are nearer to the usual.
    surprise_B1 = ops.log(spread.mass) - _log(likely_BC[:, -1:])
    nearer_BC = _distance(likely_BC, spread) < surprise_B1 - spread.entropy
    held_B = ops.sum(ops.where(nearer_BC, likely_BC / spread.mass, 0.0), axis=-1)
    reached_B = ops.logical_and(held_B >= cut.typical_p, _is_whole(cut, probabilities_BV.shape[-1]))
    return ops.logical_or(settled_B, reached_B), spread


def _is_whole(cut, width):
    """Whether top-k and top-p keep all of a row: true, false, or B."""
    whole = True
    if cut.top_k is not None:
        whole = whole & (cut.top_k >= width)
    if cut.top_p is not None:
        whole = whole & (cut.top_p >= 1)
    return whole


def _distance(probabilities_BC, spread):
    """How far from the usual a token's surprise is; what is dropped is infinitely far."""
    surprise_BC = ops.log(spread.mass) - _log(probabilities_BC)
    return ops.where(probabilities_BC > 0, ops.abs(surprise_BC - spread.entropy), float("inf"))


def _log(probabilities):
    return ops.log(ops.where(probabilities > 0, probabilities, 1.0))


def _before(x_BC):
    """The sum of all that comes before each."""
    sums_BC = ops.cumsum(x_BC, axis=-1)[:, :-1]
    return ops.concatenate([ops.zeros_like(x_BC[:, :1]), sums_BC], axis=-1)
