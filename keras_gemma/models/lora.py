"""LoRA on a backbone: adapters by name, of which one is active, merged or none."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from keras_gemma.conversion.adapters import LoraOptions
from keras_gemma.layers import Dense
from keras_gemma.models import lora_weights

# Layers by their names, and by the attributes that KerasHub has for them.
TARGETS = {
    "query": "query_dense",
    "key": "key_dense",
    "value": "value_dense",
    "attention_output": "output_dense",
    "ffw_gating": "gating_ffw",
    "ffw_gating_2": "gating_ffw_2",
    "ffw_linear": "ffw_linear",
}
_NAMES = {**{attribute: name for name, attribute in TARGETS.items()}, **{n: n for n in TARGETS}}


class Adaptable:
    """`enable_lora` and what belongs to it, for a backbone.

    While an adapter is active it alone is trained; everything else keeps its numbers, and its dtype.
    Saved models and exported ones have the active adapter in their kernels, as KerasHub's do.
    """

    def default_lora_layer_names(self) -> list[str]:
        """The layers that `enable_lora` adapts, if it is not told which."""
        return ["query", "value"]

    def enable_lora(
        self,
        rank: int,
        target_layer_names: Iterable[str] | None = None,
        *,
        alpha: float | None = None,
        dropout: float = 0.0,
        use_rslora: bool = False,
        use_dora: bool = False,
        name: str = "default",
    ) -> None:
        """Freeze the weights, and put narrow matrices beside some that are trained instead.

        Compile again afterwards: an optimizer is of the variables that there were.

        Args:
            rank: inner width of the two matrices.
            target_layer_names: of `query`, `key`, `value`, `attention_output`, `ffw_gating`,
                `ffw_gating_2` and `ffw_linear`; queries and values if left out.
            alpha: their product is multiplied by `alpha / rank`; the rank if left out.
            dropout: share of what they read that is dropped in training.
            use_rslora: multiply by `alpha / sqrt(rank)` (arXiv 2312.03732).
            use_dora: train the length of each output apart (arXiv 2402.09353).
            name: of this adapter, beside which there may be others.

        Raises:
            ValueError: the name is taken, or an argument is none of those above.
        """
        options = LoraOptions(rank, alpha, dropout, use_rslora, use_dora)
        if target_layer_names is None:
            target_layer_names = self.default_lora_layer_names()
        targets = _targets(target_layer_names)
        layers = [layer for layer in self._dense_layers() if layer.name in targets]
        self._add_adapter(name, {layer.path: options for layer in layers})

    @property
    def lora_names(self) -> list[str]:
        """The adapters that there are."""
        return sorted({name for layer in self._dense_layers() for name in layer.branches})

    @property
    def active_lora(self) -> str | None:
        """The adapter that takes part."""
        return next((layer.active for layer in self._dense_layers() if layer.active), None)

    @property
    def merged_lora(self) -> str | None:
        """The adapter that was merged."""
        return next((layer.merged for layer in self._dense_layers() if layer.merged), None)

    def set_lora(self, name: str | None) -> None:
        """Let another adapter take part, and alone be trained; or with `None` the base alone.

        Compile again before it is trained: an optimizer is of the variables that there were.
        """
        self._check_unmerged()
        if name is not None:
            self._check_there(name)
            self._freeze()
        for layer in self._dense_layers():
            layer.set_adapter(None)
            layer.set_adapter(name if name in layer.branches else None)
        self._retrack()

    def delete_lora(self, name: str) -> None:
        """Let go of an adapter. The base stays frozen until `trainable` is set."""
        self._check_unmerged()
        self._check_there(name)
        for layer in self._dense_layers():
            if name in layer.branches:
                layer.delete_adapter(name)
        self._retrack()

    def merge_lora(self) -> None:
        """Add the active adapter to the weights, so that it costs nothing more.

        The weights as they were are kept in the host's memory for `unmerge_lora`. Generation needs
        no merge: its plan has the adapter in it.

        Raises:
            ValueError: there is none, one is merged already, or the base is quantized.
        """
        self._check_unmerged()
        name = self.active_lora
        if name is None:
            raise ValueError(
                f"No adapter is active. set_lora() chooses one; there are {self.lora_names}."
            )
        layers = self._layers_of(name)
        if quantized := next((layer for layer in layers if layer.quantization_mode), None):
            raise ValueError(
                f"{quantized.path} holds {quantized.quantization_mode}, too coarse for what an "
                "adapter adds. Save the adapter, load the base as floats (from_preset with dtype=), "
                "load the adapter to it with strict=False, and merge there."
            )
        for layer in layers:
            layer.merge()
        self._retrack()

    def unmerge_lora(self) -> None:
        """Give the weights back the numbers that they had before `merge_lora`, bit for bit."""
        name = self.merged_lora
        if name is None:
            raise ValueError("No adapter is merged.")
        for layer in self._layers_of(name):
            layer.unmerge()
        self._retrack()

    def save_lora_weights(
        self,
        filepath: str | Path,
        *,
        name: str | None = None,
        format: str | None = None,
        base: str | None = None,
    ) -> None:
        """Write an adapter: a file of KerasHub's, or a folder of PEFT's.

        A file named `.lora.h5` holds what KerasHub reads, with the scale in its second matrix, and
        beside it what KerasHub has no word for. KerasHub refuses the file of a DoRA.

        Args:
            filepath: a file whose name ends in `.lora.h5`, or with `format="peft"` a folder.
            name: of the adapter; the active one if left out.
            format: `"keras_hub"` or `"peft"`; by the file's name if left out.
            base: name or folder of the base in Transformers' dress, for PEFT's own loader.
        """
        self._check_unmerged()
        name = name or self.active_lora
        if name is None:
            raise ValueError(
                "There is no active adapter to save: enable_lora(rank), or give name=, of "
                f"{self.lora_names}."
            )
        self._check_there(name)
        lora_weights.save(self, Path(filepath).expanduser(), name, format, base)

    def load_lora_weights(
        self, filepath: str | Path, *, name: str = "default", strict: bool = True
    ) -> None:
        """Read an adapter, and let it take part: what `save_lora_weights`, KerasHub or PEFT wrote.

        Args:
            filepath: a file `.lora.h5`, or a folder with `adapter_config.json`.
            name: of the adapter here. One of that name must be alike; else it is made.
            strict: whether it is an error that the file was made with another base of the same
                shapes. The same base in float16 or quantized counts as another.

        Raises:
            BadPresetError: the file is damaged, or of another base, rank or kind; both are told.
        """
        self._check_unmerged()
        lora_weights.load(self, Path(filepath).expanduser(), name, strict)

    # --- underneath ---

    def _dense_layers(self) -> list[Any]:
        return [
            layer for layer in self._flatten_layers(include_self=False) if isinstance(layer, Dense)
        ]

    def _layers_of(self, name):
        return [layer for layer in self._dense_layers() if name in layer.branches]

    def _add_adapter(self, name, options_by_path):
        self._check_unmerged()
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w-]{0,63}", name):
            raise ValueError(f"An adapter's name is letters, digits, - and _, not {name!r}.")
        if name in self.lora_names:
            options = self._layers_of(name)[0].branches[name].options
            raise ValueError(
                f"There is an adapter {name!r} already, {options}. Choose another name=, or "
                "delete_lora() it first."
            )
        self._freeze()
        for layer in self._dense_layers():
            layer.set_adapter(None)
            if layer.path in options_by_path:
                layer.add_adapter(name, options_by_path[layer.path])
        self._retrack()

    def _freeze(self):
        """Of what there is, train nothing; what is set trainable afterwards is trained."""
        self.trainable = True  # else nothing of it could be
        for layer in self._flatten_layers(include_self=False):
            layer.trainable = False

    def _check_unmerged(self):
        if (name := self.merged_lora) is not None:
            raise ValueError(
                f"The adapter {name!r} is merged into the weights: unmerge_lora() first."
            )

    def _check_there(self, name):
        if name not in self.lora_names:
            raise ValueError(f"There is no adapter {name!r}; there are {self.lora_names}.")

    def _retrack(self):
        self._post_quantize("lora")  # PyTorch has lists of the variables, too


def _targets(names):
    """The names of layers that are meant."""
    names = [names] if isinstance(names, str) else list(names)
    if not names:
        raise ValueError(
            "target_layer_names is empty, which would adapt nothing. Leave it out for queries and values, or "
            f"name some of {', '.join(TARGETS)}."
        )
    if unknown := [name for name in names if name not in _NAMES]:
        raise ValueError(
            f"There is no layer {unknown[0]!r} to adapt; there are {', '.join(TARGETS)}."
        )
    return {_NAMES[name] for name in names}
