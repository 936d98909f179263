"""A LoRA adapter as files hold it: what it was made with, and its arrays, by the kernel they adapt."""

import dataclasses
import math
from numbers import Integral, Real
from typing import NamedTuple

import numpy as np


@dataclasses.dataclass(frozen=True)
class LoraOptions:
    """How two narrow matrices A and B change a kernel W: to W + scale A B.

    Attributes:
        rank: inner width of the product (arXiv 2106.09685).
        alpha: the scale is `alpha / rank`; the rank itself if left out, a scale of one.
        dropout: share of the inputs of A that is dropped in training.
        use_rslora: the scale is `alpha / sqrt(rank)` (arXiv 2312.03732).
        use_dora: outputs get a length of their own, that is trained (arXiv 2402.09353).
        by_head: of a kernel with several heads, each has an A of its own and B is one for all, as in
            Keras; or, as in PEFT, A is one for all.

    >>> LoraOptions(8, alpha=16).scale, LoraOptions(4, use_rslora=True).scale
    (2.0, 2.0)
    """

    rank: int
    alpha: float | None = None
    dropout: float = 0.0
    use_rslora: bool = False
    use_dora: bool = False
    by_head: bool = True

    def __post_init__(self):
        if isinstance(self.rank, bool) or not isinstance(self.rank, Integral) or self.rank < 1:
            raise ValueError(f"rank must be a whole number of 1 or more, not {self.rank!r}.")
        self._keep(rank=int(self.rank))
        if self.alpha is None:
            self._keep(alpha=self.rank)
        if not _is_number(self.alpha) or not 0 < self.alpha < math.inf:
            raise ValueError(f"alpha must be a number above 0, not {self.alpha!r}.")
        if not _is_number(self.dropout) or not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be 0 or more and less than 1, not {self.dropout!r}.")
        # Files hold Python's numbers, and none of NumPy's.
        alpha = int(self.alpha) if isinstance(self.alpha, Integral) else float(self.alpha)
        self._keep(alpha=alpha, dropout=float(self.dropout))

    def _keep(self, **values):
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def scale(self) -> float:
        """What the product of A and B is multiplied by."""
        return self.alpha / (math.sqrt(self.rank) if self.use_rslora else self.rank)

    @property
    def form(self) -> tuple:
        """What of it decides which numbers belong to it: all but the dropout."""
        return self.rank, float(self.alpha), self.use_rslora, self.use_dora, self.by_head

    def __str__(self):
        kind = "DoRA" * self.use_dora or "rsLoRA" * self.use_rslora or "LoRA"
        heads = "" if self.by_head else ", one A for all heads"
        return f"{kind} of rank {self.rank}, alpha {self.alpha:g}{heads}"


def _is_number(value):
    return isinstance(value, Real) and not isinstance(value, bool)


class LayerAdapter(NamedTuple):
    """What is added to one kernel. Axes are the kernel's, in its order.

    `a` ends with the rank and `b` begins with it; `magnitude` has the kernel's outputs.
    """

    options: LoraOptions
    a: np.ndarray
    b: np.ndarray
    magnitude: np.ndarray | None = None


class Adapter(NamedTuple):
    """An adapter of a model.

    Attributes:
        layers: by the path of the kernel, `decoder_block_0/attention/query/kernel`.
        fingerprint: of the base that it was trained on, if that is known.
    """

    layers: dict[str, LayerAdapter]
    fingerprint: str | None = None
