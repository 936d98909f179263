"""The low-rank branch of a dense layer: LoRA, rsLoRA and DoRA.

The product goes the narrow way, `(x A) B`: never by way of `W + A B`, whose gradient is as large as that of W.
Letters of einsum equations are the layer's, and r is the rank.
"""

import keras
import numpy as np
from keras import ops

from keras_gemma.conversion.adapters import LayerAdapter, LoraOptions


class LoraBranch:
    """Trained matrices beside a frozen kernel: A, B and, with DoRA, a length for each output.

    Args:
        equation: of the layer, `"btd,ndh->btnh"`.
        options: how it is made.
    """

    def __init__(self, equation: str, options: LoraOptions):
        self.options, self.seeds = options, None
        if options.dropout:
            self.seeds = keras.random.SeedGenerator()
        (x, kernel), y = equation.split("->")[0].split(","), equation.split("->")[1]
        inputs = "".join(letter for letter in kernel if letter not in y)
        outputs = "".join(letter for letter in kernel if letter in y)
        self._inputs = tuple(kernel.index(letter) for letter in inputs)
        self._kernel, self._outputs = kernel, outputs
        self._a, self._b = f"{inputs}r", f"r{outputs}"
        if options.by_head:
            self._a, self._b = f"{kernel[:-1]}r", f"r{kernel[-1]}"
        narrow = "".join(letter for letter in x if letter not in inputs)
        narrow += "".join(letter for letter in self._a if letter in f"{outputs}r")
        self._down, self._up = f"{x},{self._a}->{narrow}", f"{narrow},{self._b}->{y}"
        self._whole = f"{self._a},{self._b}->{kernel}"

    def shapes(self, kernel_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """The shape of each part beside a kernel of that shape."""
        sizes = {**dict(zip(self._kernel, kernel_shape, strict=True)), "r": self.options.rank}
        letters = {"a": self._a, "b": self._b}
        if self.options.use_dora:
            letters["magnitude"] = self._outputs
        return {name: tuple(sizes[letter] for letter in part) for name, part in letters.items()}

    def build(self, add_weight, name: str, kernel_shape, kernel, a_initializer, b_initializer):
        """Make the variables by a layer's `add_weight`; `kernel()` gives the floats that are adapted."""
        suffix = "" if name == "default" else f"_{name}"
        drawn = {"a": a_initializer, "b": b_initializer, "magnitude": "ones"}
        stems = {"a": "lora_kernel_a", "b": "lora_kernel_b", "magnitude": "lora_magnitude"}
        # Numbers as small as their first steps vanish in 16 bits.
        made = {
            part: add_weight(
                name=stems[part] + suffix, shape=shape, initializer=drawn[part], dtype="float32"
            )
            for part, shape in self.shapes(kernel_shape).items()
        }
        self.a, self.b, self.magnitude = made["a"], made["b"], made.get("magnitude")
        self._keep_lengths(kernel)

    def begin(self, kernel) -> None:
        """Let it change nothing: B is zero, and outputs have the lengths that they had."""
        self.b.assign(ops.zeros(self.b.shape))
        self._keep_lengths(kernel)

    def _keep_lengths(self, kernel):
        if self.magnitude is not None:
            self.magnitude.assign(self._lengths(kernel()))

    @property
    def variables(self) -> list:
        """What is trained."""
        parts = self.a, self.b, self.magnitude
        return [part for part in parts if part is not None]

    def __call__(self, x, y, kernel, training: bool = False):
        """The layer's output, of its input `x` and what it would be without, `y`.

        `kernel()` gives the floats that are adapted, for DoRA. Its gradient takes their lengths for
        constants (section 4.3 of the paper). PEFT, where there is dropout as well, drops inputs of
        the kernel's product with the lengths, too; here, as in the paper, those of A alone.
        """
        if training and self.seeds is not None:
            x = keras.random.dropout(x, self.options.dropout, seed=self.seeds)
        a, b = (ops.cast(part, x.dtype) for part in (self.a, self.b))
        y = y + self.options.scale * ops.einsum(self._up, ops.einsum(self._down, x, a), b)
        if self.magnitude is None:
            return y
        lengths = ops.stop_gradient(self._lengths(self._added(kernel())))
        return y * ops.cast(ops.cast(self.magnitude, "float32") / lengths, y.dtype)

    def merged(self, kernel):
        """The kernel that a layer without this branch needs to compute the same, in float32."""
        whole = self._added(kernel)
        if self.magnitude is None:
            return whole
        factors = ops.cast(self.magnitude, "float32") / self._lengths(whole)
        return whole * ops.expand_dims(factors, self._inputs)

    def _added(self, kernel):
        a, b = (ops.cast(ops.convert_to_tensor(part), "float32") for part in (self.a, self.b))
        product = ops.einsum(self._whole, a, b)
        return ops.cast(kernel, "float32") + self.options.scale * product

    def _lengths(self, kernel):
        return ops.sqrt(ops.sum(ops.square(ops.cast(kernel, "float32")), axis=self._inputs))

    def fetch(self) -> LayerAdapter:
        """Its numbers, as files hold them."""
        parts = (np.array(ops.convert_to_numpy(part)) for part in self.variables)
        return LayerAdapter(self.options, *parts)

    def assign(self, stored: LayerAdapter) -> None:
        """Take the numbers of a file."""
        for part, array in zip(self.variables, stored[1:], strict=False):
            part.assign(array)
