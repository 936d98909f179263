"""A checkpoint in any dress: one that was opened, and what one is written from."""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from keras_gemma.conversion.stream import Fit, check, compare, load, report, writables
from keras_gemma.conversion.tensors import Quantized, Tensors, Writable
from keras_gemma.conversion.weight_map import Rule, entries
from keras_gemma.presets import lookalikes
from keras_gemma.presets.sizes import weight_shapes


class Checkpoint(NamedTuple):
    """What a format's `open_checkpoint` gives; no number has been read."""

    backbone: str  # "GemmaBackbone" or "Gemma3Backbone"
    config: dict[str, Any]  # its arguments; `dtype` is the stored one
    tensors: Tensors | None  # None where weights were not asked for
    rules: tuple[Rule, ...]
    ignored: Callable[[str], bool]  # tensors that may be there and no model needs
    quantized: Mapping[str, Quantized] = MappingProxyType({})  # by path of our weight

    def fit(self) -> Fit:
        """How its tensors fit the model that its configuration describes."""
        return self._fit_of(self.backbone, self.config)

    def _fit_of(self, backbone, config):
        found = entries(self.rules, weight_shapes(backbone, config))
        return compare(found, self.tensors, self.ignored)

    def check(self) -> None:
        """See that all its tensors fit, and no other is there.

        Raises:
            BadPresetError: it names them, and the published preset whose shapes they have.
        """
        fit = self.fit()
        if fit.problems:
            check(fit, self.tensors, lookalikes.hint(self._would_fit))

    def _would_fit(self, backbone, config):
        try:
            return not self._fit_of(backbone, config).problems
        except ValueError:  # the table is of models without some of these weights
            return False

    def load(
        self, variables: Mapping[str, Any], strict: bool = True, but: Any = (), **options: Any
    ) -> Fit:
        """Fill variables, given by path; with `strict=False` only what fits, and tell of the rest.

        Weights whose tensors are named in `but` are left to the caller.
        """
        if strict:
            self.check()
        fit = self.fit()
        wanted = [entry for entry in fit.entries if entry.theirs not in but]
        load(variables, wanted, self.tensors, **options)
        report(fit, self.tensors)
        return fit


class Source(NamedTuple):
    """What a format's `save(place, source)` writes: a model in memory, or an opened checkpoint."""

    backbone: str  # "GemmaBackbone" or "Gemma3Backbone"
    config: dict[str, Any]  # its arguments
    dtype: str  # what the numbers are to be stored as: "float32", "bfloat16", "float16", "q8_0", …
    read: Callable[[str], np.ndarray]  # the numbers of one of our weights, by path
    vocabulary: bytes | None  # the tokenizer's SentencePiece model
    context_length: int
    # Whether it was tuned on turns; None, where nobody knows, counts as yes if it has their tokens.
    chats: bool | None = None

    def writables(self, rules: tuple[Rule, ...], rounded: bool = True) -> Iterator[Writable]:
        """Tensors of a format's table, each made when it is written.

        They are `rounded` to `dtype`, unless the writer does that, with a type for each.
        """
        found = entries(rules, weight_shapes(self.backbone, self.config))
        return writables(found, self.read, self.dtype if rounded else None)
