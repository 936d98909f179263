"""New numbers in the place of old ones, with as little memory beside them as each backend allows.

Inside a program of XLA a formula over whole arrays is one pass that makes no array in between.
PyTorch makes one of each operation: there it runs over pieces that stay in the processor's cache
(41 million weights by AdamW's formula on one core: 2.5 s whole, 0.6 s in pieces).
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gemma.arrays import device_kind
from keras_gemma.compilers import in_order

# Numbers in a piece: 256 KiB of float32 on a CPU, more where a kernel goes through them once; on a
# GPU so many that starting a kernel takes less than running it.
_PIECE, _KERNEL_PIECE, _GPU_PIECE = 2**16, 2**18, 2**24
_XLA_PIECE = 2**22


def replace(
    optimizer: Any, formula: Callable, targets: list, inputs: list, rows: int | None = None
) -> None:
    """Give `targets` the numbers that `formula(places, *targets, *inputs)` returns.

    Args:
        optimizer: whose `assign` writes, where writing takes an operation.
        formula: from number to number or within a row, for it may see some rows only. `places()`
            is where each number of the first target stands in it, as int32.
        targets: variables.
        inputs: tensors. Targets and inputs have as many rows, each.
        rows: as how many rows they are seen; or `None`, as they are.
    """
    if _may_write(optimizer):
        if rows:
            inputs = [in_order(x) for x in inputs]
        for start, views in _pieces([*targets, *inputs], _PIECE, rows):
            for view, new in zip(views, formula(places(views[0], start), *views)):
                view.copy_(new)
        return
    tensors = [ops.convert_to_tensor(t) for t in (*targets, *inputs)]
    if rows:
        tensors = [ops.reshape(t, (rows, -1)) for t in tensors]
        new = _in_loop(formula, tensors[: len(targets)], tensors[len(targets) :])
    else:
        new = formula(places(tensors[0]), *tensors)
    for target, value in zip(targets, new):
        optimizer.assign(target, ops.reshape(value, target.shape))


def _in_loop(formula, old, inputs):
    """A formula within rows, some rows at a time: what XLA can't make one pass of makes small arrays."""
    rows, width = old[0].shape
    step = min(rows, max(1, _XLA_PIECE // width))

    def piece(start, size, state):
        views = [ops.slice(t, (start, 0), (size, t.shape[1])) for t in (*state, *inputs)]
        new = formula(places(views[0], start * width), *views)
        return tuple(ops.slice_update(t, (start, 0), x) for t, x in zip(state, new))

    loops, rest = divmod(rows, step)
    new = ops.fori_loop(0, loops, lambda i, state: piece(i * step, step, state), tuple(old))
    return piece(rows - rest, rest, new) if rest else new


def adamw(
    optimizer: Any, weight: Any, mean: Any, square: Any, gradient: Any, scale: Any, numbers: Any
) -> bool:
    """AdamW's update by the backend's own kernel; false where there is none.

    PyTorch's is five times as fast as the formula. TensorFlow's makes no array of the weight's size.

    Args:
        scale: what the gradient is multiplied by, or `None`.
        numbers: `AdamWNumbers`.
    """
    tensors = [weight, mean, square, gradient]
    if {keras.backend.standardize_dtype(t.dtype) for t in tensors} != {"float32"}:
        return False
    if keras.backend.backend() == "tensorflow":
        return _adamw_of_tensorflow(tensors, scale, numbers)
    if _may_write(optimizer) and gradient.device.type in ("cpu", "cuda"):
        _adamw_of_pytorch(tensors, scale, numbers)
        return True
    return False


def _adamw_of_pytorch(tensors, scale, numbers):
    import torch

    kernel = torch._fused_adamw_  # pyright: ignore[reportPrivateImportUsage]  # as torch.optim does
    for _, (*slots, given) in _pieces(tensors, _KERNEL_PIECE):
        kernel(
            [slots[0]],
            [given.contiguous() if scale is None else given * scale],
            [slots[1]],
            [slots[2]],
            [],
            [numbers.step],
            lr=numbers.rate,
            beta1=numbers.beta_1,
            beta2=numbers.beta_2,
            weight_decay=numbers.decay,
            eps=numbers.epsilon,
            amsgrad=False,
            maximize=False,
        )
        # By its version whoever keeps something made of a weight sees that it changed; the kernel leaves it alone.
        torch.autograd.graph.increment_version(slots)


def _adamw_of_tensorflow(tensors, scale, numbers):
    import tensorflow as tf

    *slots, gradient = tensors
    slots = [v.value if isinstance(v, keras.Variable) else v for v in slots]
    if not all(isinstance(v, tf.Variable) for v in slots):
        return False
    weight, mean, square = slots
    if numbers.decay:
        _decay_of_tensorflow(weight, numbers.rate * numbers.decay, gradient)
    # The kernel would correct the means itself, and lose four digits. It has betas of float32, as have the corrections.
    betas = {key: float(np.float32(getattr(numbers, key))) for key in ("beta_1", "beta_2")}
    rate, epsilon = numbers._replace(**betas).uncorrected()
    tf.raw_ops.ResourceApplyAdam(
        var=weight.handle,
        m=mean.handle,
        v=square.handle,
        beta1_power=0.0,
        beta2_power=0.0,
        lr=rate,
        beta1=betas["beta_1"],
        beta2=betas["beta_2"],
        epsilon=epsilon,
        grad=gradient if scale is None else gradient * scale,
    )
    return True


def _decay_of_tensorflow(weight, part, gradient):
    """Take a part away from each number of a weight."""
    import tensorflow as tf

    if device_kind() != "cpu":
        weight.assign(weight * (1 - part))
        return
    # (weight - alpha x gradient) / (1 + alpha x l2) is the kernel that divides in place. It takes a step, too: an
    # alpha that small is lost in any weight.
    alpha = 1e-37
    tf.raw_ops.ResourceApplyProximalGradientDescent(
        var=weight.handle, alpha=alpha, l1=0.0, l2=part / (1 - part) / alpha, delta=gradient
    )


def places(tensor: Any, start: Any = 0) -> Callable:
    """What returns, for each number of a tensor, which one it is, as int32."""

    def numbers():
        count = ops.arange(math.prod(tensor.shape), dtype="int32")
        return ops.reshape(count, tensor.shape) + start

    return numbers


def accumulate(optimizer: Any, total: Any, x: Any, weight: Any, is_first: Any) -> None:
    """`total + weight * x`, or `weight * x` where it is the first; what weighs nothing may be NaN.

    A total that was emptied after use instead would be written twice, and on XLA copied.
    """
    if _may_write(optimizer):
        total = total.value.detach()
        if is_first:
            total.zero_()
        if weight > 0:
            total.add_(x.detach(), alpha=float(weight))
        return
    more = ops.where(weight > 0, weight * ops.cast(x, "float32"), 0.0)
    optimizer.assign(total, ops.where(is_first, 0.0, ops.convert_to_tensor(total)) + more)


def is_bfloat16(dtype: Any) -> bool:
    """Whether a backend's dtype, or its name, is that one."""
    return keras.backend.standardize_dtype(dtype) == "bfloat16"


def sum_of_squares(tensor: Any) -> Any:
    """A float32 scalar, without an array of squares."""
    if keras.backend.backend() == "torch":
        import torch

        return torch.linalg.vector_norm(tensor, dtype=torch.float32) ** 2
    return ops.sum(ops.square(ops.cast(tensor, "float32")))


def only_if(condition: Any, update: Callable, variables: list) -> None:
    """Run `update` where a boolean scalar holds; `variables` are all that it reads or assigns to."""
    if keras.backend.backend() != "jax":
        ops.cond(condition, update, lambda: None)
        return

    def updated():
        with keras.StatelessScope([(v, v.value) for v in variables]) as scope:
            update()
        return [scope.get_current_value(v) for v in variables]

    values = ops.cond(condition, updated, lambda: [v.value for v in variables])
    for variable, value in zip(variables, values):
        variable.assign(value)


def _may_write(optimizer):
    """Whether tensors are memory that operations write into, and belong to the optimizer."""
    return keras.backend.backend() == "torch" and not optimizer.is_stateless


def _pieces(tensors, size, rows=None) -> Iterator[tuple[int, list]]:
    """PyTorch's tensors cut along their first axis: which number begins a piece, and views."""
    import torch

    # Detached: a weight that is trained may not be written into otherwise.
    tensors = [torch.atleast_1d(ops.convert_to_tensor(t).detach()) for t in tensors]
    if rows:
        tensors = [t.view(rows, -1) for t in tensors]
    first = tensors[0]
    width = max(1, first[:1].numel())
    step = max(1, (size if first.device.type == "cpu" else _GPU_PIECE) // width)
    for start in range(0, first.shape[0], step):
        views = [t[start : start + step] for t in tensors]
        yield start * width, views
