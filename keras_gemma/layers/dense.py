"""The dense layer of attention and feed-forward: a kernel of floats or of whole numbers, and adapters.

Whole numbers are turned to floats for each product, and again for its gradient: what is kept of a quantized
kernel between the two are its whole numbers.
"""

import contextlib
import warnings
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gemma.arrays import fetch, place
from keras_gemma.compilers import keeps_copies, not_before
from keras_gemma.conversion.adapters import LoraOptions
from keras_gemma.layers.lora import LoraBranch


@keras.saving.register_keras_serializable(package="keras_gemma")
class Dense(keras.layers.EinsumDense):
    """`keras.layers.EinsumDense` without bias and activation, with any number of LoRA adapters.

    One adapter at most is active: its variables are the layer's, and the only ones that are trained.
    Files are Keras's: a saved kernel has the active adapter in it.

    Attributes:
        branches: adapters by name.
        active: name of the one that takes part, or `None`.
        merged: name of the one that was added to the kernel, or `None`.
    """

    def __init__(self, equation: str, output_shape: Any, **kwargs: Any):
        super().__init__(equation, output_shape, **kwargs)
        self.branches, self.active, self.merged = {}, None, None
        self._unmerged = None

    def call(self, inputs, training=None):
        y = self._product(inputs, training)
        if self.active is None:
            return y
        return self.branches[self.active](inputs, y, self.base_floats, training)

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """The kernel's shape, whatever holds its numbers."""
        packed = self.quantization_mode == "int4"
        return tuple(self.original_kernel_shape if packed else self._kernel.shape)

    # --- adapters ---

    def adapter_shapes(self, options: LoraOptions) -> dict[str, tuple[int, ...]]:
        """The shapes of an adapter's parts."""
        return LoraBranch(self.equation, options).shapes(self.kernel_shape)

    def add_adapter(
        self,
        name: str,
        options: LoraOptions,
        a_initializer: Any = "he_uniform",
        b_initializer: Any = "zeros",
    ) -> None:
        """Make an adapter, which changes nothing yet, and let it take part."""
        if name in self.branches:
            raise ValueError(f"{self.path} has an adapter {name!r}; {self.branches[name].options}.")
        if self.quantization_mode and self.inputs_quantizer is not None:
            raise ValueError(f"{self.path} rounds its inputs: no gradient goes through it to LoRA.")
        branch = LoraBranch(self.equation, options)
        self.set_adapter(None)
        self.trainable = True
        with self._unlocked(), self._open_name_scope():  # a variable's path begins with it
            shape, floats = self.kernel_shape, self.base_floats
            branch.build(self.add_weight, name, shape, floats, a_initializer, b_initializer)
        self.branches[name] = branch
        self._take_part(name)

    def set_adapter(self, name: str | None) -> None:
        """Choose the adapter that takes part; with `None` there is the kernel alone."""
        if name == self.active:
            return
        if self.active is not None:
            old = self.branches[self.active]
            for variable in old.variables:
                self._untrack_variable(variable)
            with self._unlocked():
                self._tracker.untrack(old.seeds)
        with self._unlocked():
            for variable in self.branches[name].variables if name is not None else ():
                variable.trainable = True  # it may have been frozen together with the layer
                self._track_variable(variable)
        self._take_part(name)

    def _take_part(self, name):
        """`name` is active from now on; its variables are the layer's already."""
        self.active = name
        self.trainable = self.lora_enabled = name is not None
        self._kernel.trainable = False
        if name is not None:
            branch = self.branches[name]
            with self._unlocked():
                self._tracker.track(branch.seeds)
            # By these names Keras's own code asks a layer.
            rank = self.lora_rank = branch.options.rank
            self.lora_alpha = branch.options.scale * rank

    @contextlib.contextmanager
    def _unlocked(self):
        """A layer that is built lets its variables be changed."""
        self._tracker.unlock()
        try:
            yield
        finally:
            self._tracker.lock()

    def delete_adapter(self, name: str) -> None:
        """Let go of an adapter."""
        if name == self.active:
            self.set_adapter(None)
        del self.branches[name]

    def merge(self) -> None:
        """Add the active adapter to the kernel, which is kept as it was until `unmerge`."""
        self._unmerged = np.array(fetch(self._kernel))
        self._kernel.assign(self.kernel)
        self.merged = self.active
        self.set_adapter(None)

    def unmerge(self) -> None:
        """Give the kernel the numbers that it had, bit for bit, and let the adapter take part."""
        place(self._kernel, self._unmerged)
        name, self.merged, self._unmerged = self.merged, None, None
        self.set_adapter(name)

    # --- as Keras has them ---

    def enable_lora(self, rank, lora_alpha=None, a_initializer="he_uniform", b_initializer="zeros"):
        self.add_adapter("default", LoraOptions(rank, lora_alpha), a_initializer, b_initializer)

    @property
    def lora_kernel_a(self):
        """A of the active adapter."""
        return self.branches[self.active].a

    @property
    def lora_kernel_b(self):
        """B of the active adapter."""
        return self.branches[self.active].b

    @property
    def kernel(self):
        """What the layer multiplies by: the active adapter is in it. The variable, if there is none."""
        if self.active is None:
            return super().kernel
        merged = self.branches[self.active].merged(self.base_floats())
        return ops.cast(merged, self.variable_dtype)

    def _get_kernel_with_merged_lora(self):
        if self.active is not None and self.quantization_mode:
            options = self.branches[self.active].options
            if options.use_dora or not options.by_head:
                raise ValueError(
                    f"{self.path}: {options} is not rounded into whole numbers. Save it beside them, by "
                    "save_lora_weights; or load the base as floats (dtype=), and the adapter to it."
                )
            warnings.warn(
                f"The adapter is rounded into the {self.quantization_mode} weights that are saved, which "
                "changes what the model says. save_lora_weights keeps it as it is.",
                stacklevel=2,
            )
        return super()._get_kernel_with_merged_lora()

    def load_own_variables(self, store):
        # What is loaded has an adapter in it, if any was saved: the one here begins anew.
        name, self.merged, self._unmerged = self.active, None, None
        self.set_adapter(None)
        super().load_own_variables(store)
        self.set_adapter(name)
        if name is not None:
            self.branches[name].begin(self.base_floats)

    def quantize(self, mode=None, type_check=True, config=None):
        super().quantize(mode, type_check=False, config=config)  # Keras refuses its subclasses

    def quantized_call(self, inputs, training=None):
        if self.inputs_quantizer is not None:
            return super().quantized_call(inputs)
        return self.call(inputs, training)

    # --- the kernel itself ---

    def _product(self, x, training):
        is_rounded = self.quantization_mode is not None
        if not is_rounded and not (training and keeps_copies(x, self._kernel, self.compute_dtype)):
            return ops.einsum(self.equation, x, self._kernel)
        inputs, kernel, outputs = self.equation.replace("->", ",").split(",")

        def floats(x, kernel, *scales):
            kernel = not_before(x, kernel) if training else kernel
            return self._floats(self.compute_dtype, kernel, *scales) if is_rounded else kernel

        # Keras 3.15 has one as well, that fails on PyTorch for int8, where it turns the scales twice.
        @ops.custom_gradient
        def product(x, *numbers):
            def gradient(*args, upstream=None):
                dy = args[0] if upstream is None else upstream
                dx = ops.einsum(f"{outputs},{kernel}->{inputs}", dy, floats(dy, *numbers))
                if is_rounded or not self._kernel.trainable:
                    return dx, *(None for _ in numbers)
                return dx, ops.einsum(f"{inputs},{outputs}->{kernel}", x, dy)

            return ops.einsum(self.equation, x, floats(x, *numbers)), gradient

        return product(x, *self._numbers())

    def base_floats(self):
        """The kernel without any adapter, as floats."""
        if self.quantization_mode is None:
            return self._numbers()[0]
        return self._floats("float32", *self._numbers())

    def _numbers(self):
        if self.quantization_mode is None:
            return [ops.convert_to_tensor(self._kernel)]
        parts = [self._kernel, self.kernel_scale]
        if self.quantization_mode == "int4" and self._int4_block_size not in (None, -1):
            parts.append(self.kernel_zero)
        return [ops.convert_to_tensor(part) for part in parts]

    def _floats(self, dtype, kernel, scale, zero=None):
        """Of whole numbers, as `quantization/layers.py` tells how they lie."""
        scale = ops.cast(scale, dtype)
        if self.quantization_mode == "int8":
            return ops.cast(kernel, dtype) / self._adjust_scale_for_dequant(scale)
        rows, columns = self._int4_rows, self._int4_unpacked_column_size
        values = keras.quantizers.unpack_int4(kernel, columns, axis=-1)
        if zero is None:
            made = ops.cast(values, dtype) / scale
        else:
            size = self._int4_block_size
            zero, scale = (ops.repeat(part, size, axis=0)[:rows] for part in (zero, scale))
            made = (ops.cast(values, dtype) - ops.cast(zero, dtype)) * scale
        return ops.reshape(made, self.original_kernel_shape)
