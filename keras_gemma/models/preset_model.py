"""Models that come from a preset and go into one."""

import contextlib
import functools
import warnings
from pathlib import Path
from typing import Any, ClassVar, Self

import keras

from keras_gemma.arrays import nbytes
from keras_gemma.conversion.formats import has_vocabulary, open_checkpoint
from keras_gemma.layers import left_blank
from keras_gemma.models.export_checkpoint import export_checkpoint
from keras_gemma.models.fresh_programs import FreshPrograms
from keras_gemma.models.load_memory import memory_for_weights
from keras_gemma.models.quantizable import Quantizable, load_quantized
from keras_gemma.optimizers import AdamW
from keras_gemma.presets import BadPresetError, PresetError, bundle, lookalikes, registry
from keras_gemma.presets.classes import known_name
from keras_gemma.presets.registry import PARTS

PARTS_WITHOUT_WEIGHTS = ("config", "tokenizer")
TASK = "task.json"


class PresetModel(FreshPrograms):
    """A model with `from_preset`, `save_to_preset` and the list of presets."""

    presets = registry.PresetsOfFamily()

    @classmethod
    def from_preset(
        cls,
        preset: str | Path,
        load_weights: bool = True,
        dtype: Any = None,
        *,
        strict: bool = True,
        check_finite: bool = True,
        **kwargs: Any,
    ) -> Self:
        """The model of a preset: a name of `presets`, or a preset folder of ours or KerasHub's.

        Args:
            preset: a name or a folder.
            load_weights: whether to load the weights; without, they are drawn at random.
            dtype: of weights and computation, a name or a `keras.DTypePolicy`; the policy of
                `keras.config` if left out. A quantized preset stays so if it is left out, and
                becomes floats if it is given.
            strict: whether tensors that are missing, of another shape or unknown are an error. If
                not, what fits is loaded, the rest keeps its first values, and a warning names it.
            check_finite: whether a weight that is infinite or not a number is an error.
            **kwargs: arguments to set otherwise than the preset does.

        Raises:
            PresetError: there is no such preset, or its files are missing, damaged or of
                another kind of model.
            MemoryError: there is no room for the weights.
        """
        raise NotImplementedError

    def save_to_preset(self, preset_dir: str | Path, max_shard_size: float | None = None) -> None:
        """Write a preset folder that `from_preset` here and in KerasHub reads.

        It appears whole or not at all; an existing one is replaced.

        Args:
            preset_dir: the folder.
            max_shard_size: most GB in one file of weights, of which there are several if they take
                more; one whatever its size if left out.
        """
        raise NotImplementedError

    def export_to_transformers(self, path: str | Path) -> None:
        """Write a folder that Transformers reads: `export_checkpoint` under KerasHub's name."""
        export_checkpoint(self, path, "huggingface")


class PresetBackbone(PresetModel):
    """A backbone in a preset folder: `config.json` and `model.weights.h5`."""

    @classmethod
    def from_preset(
        cls,
        preset,
        load_weights=True,
        dtype=None,
        *,
        strict=True,
        check_finite=True,
        **kwargs,
    ):
        folder = registry.folder(preset, PARTS if load_weights else PARTS_WITHOUT_WEIGHTS)
        checkpoint = open_checkpoint(folder, load_weights, strict)
        if checkpoint.backbone != known_name(cls):
            raise PresetError(
                f"{preset} holds a {checkpoint.backbone}, not a {known_name(cls)}. "
                f"Call {checkpoint.backbone.replace('Backbone', '')}… instead."
            )
        # As it is stored if it is quantized and nothing else is asked for.
        quantized = {} if dtype else dict(checkpoint.quantized)
        usual = checkpoint.config["dtype"] if quantized else keras.config.dtype_policy()
        config = {**checkpoint.config, **kwargs, "dtype": dtype or usual}
        if checkpoint.tensors is None:
            return cls(**config)
        fit = checkpoint.fit()
        is_whole = not (fit.missing or fit.misshapen)  # else some keep what they are drawn as
        names = {weight.theirs for weight in quantized.values()}
        with memory_for_weights(preset, checkpoint, config["dtype"], quantized):
            with left_blank() if is_whole else contextlib.nullcontext():
                backbone = cls(**config)
            load_quantized(backbone, quantized)
            variables = {variable.path: variable for variable in backbone.variables}
            checkpoint.load(variables, strict, names, check_finite=check_finite)
        return backbone

    def save_to_preset(self, preset_dir, max_shard_size=None):
        save = functools.partial(self._save_preset_weights, max_shard_size=max_shard_size)
        bundle.write(preset_dir, self._preset_files(), save)

    def _save_preset_weights(self, path, max_shard_size):
        size = sum(map(nbytes, self.variables)) / 2**30
        if max_shard_size is None or size <= max_shard_size:
            return self.save_weights(path)
        return self.save_weights(path.with_name(bundle.SHARDS), max_shard_size=max_shard_size)

    def _preset_files(self):
        return {
            "config.json": bundle.serialized(known_name(type(self)), self.get_config()),
            "metadata.json": bundle.metadata(
                self.count_params(), keras.version(), tasks=("CausalLM",)
            ),
        }


class PresetTask(Quantizable, PresetModel):
    """A task in a preset folder: its backbone, its preprocessor and the tokenizer's vocabulary."""

    backbone_class: type
    preprocessor_class: type
    # Arguments beside the parts, with their types, which a preset keeps.
    options: ClassVar[dict[str, Any]] = {}
    predicts_tokens: ClassVar[bool] = False  # or gives one output a text
    _max_shard_size: float | None = None  # of the preset that is being saved

    @classmethod
    def from_preset(
        cls,
        preset,
        load_weights=True,
        dtype=None,
        *,
        strict=True,
        check_finite=True,
        **kwargs,
    ):
        backbone = kwargs.pop("backbone", None)
        folder = registry.folder(preset, PARTS_WITHOUT_WEIGHTS)
        if "preprocessor" in kwargs:
            preprocessor = kwargs.pop("preprocessor")
        elif bundle.has(folder, "tokenizer.json") or has_vocabulary(folder):
            preprocessor = cls.preprocessor_class.from_preset(preset)
        else:
            preprocessor = None
        own = ("name", "trainable", *cls.options)
        own = {name: kwargs.pop(name) for name in own if name in kwargs}
        if backbone is None:
            kwargs |= {"strict": strict, "check_finite": check_finite}
            backbone = cls.backbone_class.from_preset(preset, load_weights, dtype, **kwargs)
        rows = backbone.vocabulary_size
        if preprocessor is not None and preprocessor.tokenizer.vocabulary_size() > rows:
            raise BadPresetError(_different(preset, backbone, preprocessor.tokenizer))
        return cls._saved_class(folder)(backbone=backbone, preprocessor=preprocessor, **own)

    @classmethod
    def _saved_class(cls, folder):
        """A user's class, if such a model was saved there and Keras knows the class by its name."""
        record = bundle.read_json(folder, TASK) if bundle.has(folder, TASK) else {}
        name = bundle.checked_options(record.get("keras_gemma", {}), {"class": str}, folder / TASK)
        found = keras.saving.get_registered_object(name.get("class", ""))
        return found if isinstance(found, type) and issubclass(found, cls) else cls

    def save_to_preset(self, preset_dir, max_shard_size=None):
        files, assets = self.backbone._preset_files(), {}
        parts = {"backbone": files["config.json"], "preprocessor": None}
        if self.preprocessor is not None:
            files["preprocessor.json"] = parts["preprocessor"] = self.preprocessor.preset_config()
            files["tokenizer.json"] = self.preprocessor.tokenizer.preset_config()
            assets["tokenizer"] = self.preprocessor.tokenizer.save_assets
        options = {**parts, **self._preset_options()}
        files[TASK] = bundle.serialized(known_name(type(self)), options)
        if type(self).__name__ != known_name(type(self)):  # under a key that KerasHub passes over
            files[TASK]["keras_gemma"] = {"class": keras.saving.get_registered_name(type(self))}
        self._max_shard_size = max_shard_size
        bundle.write(preset_dir, files, self._save_preset_weights, assets)

    def fit(self, *args: Any, **kwargs: Any):
        callbacks = keras.tree.flatten(kwargs.get("callbacks") or [])
        if any(map(_looks_at_batches, callbacks)):
            kwargs["callbacks"] = [_GivesValuesBack(), *callbacks]
        return super().fit(*args, **kwargs)

    def train_on_batch(self, x, y=None, sample_weight=None, **kwargs: Any):
        """One step, on all texts that are given or on a batch of integers, as `keras.Model.train_on_batch`."""
        return super().train_on_batch(*self._one_batch(x, y, sample_weight), **kwargs)

    def test_on_batch(self, x, y=None, sample_weight=None, **kwargs: Any):
        """Loss and metrics of one batch, given as to `train_on_batch`."""
        return super().test_on_batch(*self._one_batch(x, y, sample_weight), **kwargs)

    def predict_on_batch(self, x):
        """Outputs of one batch, given as to `train_on_batch`."""
        return super().predict_on_batch(self._one_batch(x)[0])

    def _one_batch(self, x, y=None, weights=None):
        """Inputs, labels and weights as Keras takes them, of what a user gave."""
        raise NotImplementedError

    def _set_remat(self, remat):
        self.remat = remat
        for block in self.backbone.transformer_layers:
            block.remat = remat

    def _preset_options(self):
        """What `task.json` says beside the parts."""
        return {name: getattr(self, name) for name in ("name", *self.options)}

    def _save_preset_weights(self, path):
        self.backbone._save_preset_weights(path, self._max_shard_size)

    def get_config(self) -> dict[str, Any]:
        return {
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "preprocessor": keras.saving.serialize_keras_object(self.preprocessor),
            **self._preset_options(),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        for part in ("backbone", "preprocessor"):
            config[part] = keras.saving.deserialize_keras_object(config[part])
        return cls(**config)

    def summary(
        self, line_length: Any = None, positions: Any = None, print_fn: Any = None, **keywords: Any
    ) -> None:
        """Print the layers and their parameters, the preprocessor first."""
        if self.preprocessor is not None:
            tokenizer = self.preprocessor.tokenizer
            (print_fn or print)(
                f'Preprocessor: "{self.preprocessor.name}", rows of '
                f"{self.preprocessor.sequence_length:,} tokens; {tokenizer.name} "
                f"({type(tokenizer).__name__}), {tokenizer.vocabulary_size():,} pieces"
            )
        super().summary(line_length, positions, print_fn, **keywords)

    def get_compile_config(self):
        return {
            **super().get_compile_config(),
            "has_trained": bool(self.optimizer and self.optimizer.built),
        }

    def compile_from_config(self, config):
        config = dict(config)
        has_trained = config.pop("has_trained")
        config.pop("jit_compile", None)  # what "auto" came to on the backend that saved it
        self.compile(**keras.saving.deserialize_keras_object(config))
        if has_trained:  # the file then holds the optimizer's state, which needs a place
            self.optimizer.build(self.trainable_variables)

    def _warn_of_standstill(self):
        optimizer = getattr(self.optimizer, "inner_optimizer", self.optimizer)
        low = {v.dtype for v in self.trainable_variables} & {"bfloat16", "float16"}
        adam = keras.optimizers.Adam, keras.optimizers.AdamW
        if low and isinstance(optimizer, adam) and not isinstance(optimizer, AdamW):
            warnings.warn(
                f"{type(optimizer).__name__} of Keras keeps its state in {low.pop()} like the "
                f"weights; at beta_2={optimizer.beta_2} such weights do not move. Use "
                "keras_gemma.optimizers.AdamW, whose state and update are float32.",
                stacklevel=3,
            )


class _GivesValuesBack(keras.callbacks.Callback):
    """Told before a user's callbacks, which may ask the model, or a part of it, for its weights.

    Within an epoch Keras on JAX holds them apart, and knows only of callbacks that say `self.model`.
    """

    def on_train_batch_end(self, batch, logs=None):
        self.model  # noqa: B018


_OF_BATCHES = "on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end"


def _looks_at_batches(callback):
    """Whether a user's callback is told of batches; those of this package take care themselves."""
    plain = keras.callbacks.Callback
    methods = ((getattr(callback, name, None), getattr(plain, name)) for name in _OF_BATCHES)
    own = any(getattr(method, "__func__", None) is not usual for method, usual in methods)
    return own and not type(callback).__module__.startswith("keras_gemma.")


def _different(preset, backbone, tokenizer):
    """What to say of a tokenizer with more pieces than the table has rows."""
    pieces, hint = tokenizer.vocabulary_size(), ""
    if families := lookalikes.families(pieces):
        hint += f" A vocabulary of {pieces} is that of {', '.join(families)}."
    if names := lookalikes.looks_like(type(backbone).__name__, backbone.get_config()):
        hint += f" The weights look like {names[0]}."
    return (
        f"{preset} has a tokenizer of {pieces} pieces and an embedding table of "
        f"{backbone.vocabulary_size} rows: they belong to different models.{hint}"
    )
