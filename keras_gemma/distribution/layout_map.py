"""Which axis of which weight goes to which axis of a device mesh.

V vocabulary, D model width, F width of one feed-forward branch, N query heads, K key heads,
H head width.
"""

import warnings
from typing import Any, NamedTuple

import keras

# Sizes that a letter stands for, as `GemmaConfig` calls them.
_SIZES = {
    "V": "vocabulary_size",
    "D": "hidden_dim",
    "F": "intermediate_dim",
    "N": "num_query_heads",
    "K": "num_key_value_heads",
    "H": "head_dim",
}
# A layout map wants the whole path, and a model around this one puts its name before it.
_ANY = "(.*/)?"
_BLOCK = _ANY + r"decoder_block_\d+/"
# A weight: its axes, and what they are split over. Heads and branches go to the model axis, so
# that a block needs two sums over it; what is left of each kernel goes to the data axis.
_KERNELS = {
    _ANY + "token_embedding/embeddings": ("VD", ("model", "data")),
    _BLOCK + "attention/query/kernel": ("NDH", ("model", "data", None)),
    _BLOCK + "attention/(key|value)/kernel": ("KDH", ("model", "data", None)),
    _BLOCK + "attention/attention_output/kernel": ("NHD", ("model", None, "data")),
    _BLOCK + "(ffw_gating|ffw_gating_2)/kernel": ("DF", ("data", "model")),
    _BLOCK + "ffw_linear/kernel": ("FD", ("model", "data")),
}
# Weights that are whole on every device of every mesh, and why.
REPLICATED = {
    _BLOCK + "(pre|post)_(attention|ffw)_norm/scale": "one vector: less than its exchange costs",
    _BLOCK + "attention/(query|key)_norm/scale": "one vector of head_dim, which is never split",
    _ANY + "final_normalization/scale": "one vector: less than its exchange costs",
}


class Placement(NamedTuple):
    """Where the weights whose paths match a pattern go."""

    axes: tuple[str | None, ...]  # of the mesh, one for each axis of the weight
    whole: tuple[str, ...] = ()  # reasons why an axis that could be split is not


def placements(
    mesh_sizes: dict[str, int],
    model_parallel_dim_name: str = "model",
    data_parallel_dim_name: str = "batch",
    config: Any = None,
) -> dict[str, Placement]:
    """What `gemma_layout_map` decides, from sizes alone: path pattern to `Placement`.

    >>> import re
    >>> plan = placements({"batch": 2, "model": 4})
    >>> for pattern, placement in plan.items():
    ...     if re.fullmatch(pattern, "decoder_block_0/attention/key/kernel"):
    ...         print(placement.axes, placement.whole)
    (None, 'batch', None) ('num_key_value_heads is unknown without config',)
    """
    names = {"model": model_parallel_dim_name, "data": data_parallel_dim_name}
    plan = {}
    for pattern, (letters, roles) in _KERNELS.items():
        axes, whole = [], []
        for letter, role in zip(letters, roles):
            name = names.get(role)
            reason = name and _why_whole(letter, name, mesh_sizes[name], config)
            axes.append(None if reason else name)
            whole += [reason] if reason else []
        plan[pattern] = Placement(tuple(axes), tuple(whole))
    return plan | {pattern: Placement((None,), (why,)) for pattern, why in REPLICATED.items()}


def gemma_layout_map(
    device_mesh: keras.distribution.DeviceMesh,
    model_parallel_dim_name: str = "model",
    data_parallel_dim_name: str = "batch",
    config: Any = None,
) -> keras.distribution.LayoutMap:
    """A `LayoutMap` that names every weight of a Gemma, each exactly once.

    Args:
        device_mesh: the devices.
        model_parallel_dim_name: axis of the mesh over which heads, feed-forward branches and
            the vocabulary are split.
        data_parallel_dim_name: axis over which batches are split; weights are, too.
        config: a `GemmaConfig`. With it, each axis is split where its size divides, and stays
            whole otherwise. Without it all are split, except that keys and values stay whole
            over the model axis: many a Gemma has one head of them.

    Raises:
        TypeError: `device_mesh` is not a mesh.
        ValueError: it has no such axes.

    Warns:
        UserWarning: an axis that is usually split stays whole; `placements` has the reasons.
    """
    if not isinstance(device_mesh, keras.distribution.DeviceMesh):
        raise TypeError(
            "device_mesh must be a keras.distribution.DeviceMesh, not "
            f"{type(device_mesh).__name__}."
        )
    sizes = dict(zip(device_mesh.axis_names, device_mesh.shape))
    for argument, name in (
        ("model_parallel_dim_name", model_parallel_dim_name),
        ("data_parallel_dim_name", data_parallel_dim_name),
    ):
        if name not in sizes:
            raise ValueError(
                f"{argument}={name!r} is no axis of the mesh, whose axes are {list(sizes)}. Name "
                "one of them; an axis that isn't needed may have size 1."
            )
    if model_parallel_dim_name == data_parallel_dim_name:
        raise ValueError(
            f"Both axes are {model_parallel_dim_name!r}, but a weight is split over each of them. "
            f"Name two of {list(sizes)}."
        )
    plan = placements(sizes, model_parallel_dim_name, data_parallel_dim_name, config)
    _warn_of_whole(plan)
    layout_map = keras.distribution.LayoutMap(device_mesh)
    for pattern, placement in plan.items():
        layout_map[pattern] = placement.axes
    return layout_map


def _why_whole(letter, name, devices, config):
    """Why an axis is not split, or `None` if it is."""
    size = _SIZES[letter]
    if config is None:
        return f"{size} is unknown without config" if letter == "K" else None
    held = getattr(config, size)
    if held % devices:
        return f"{size}={held} does not divide among {devices} devices of axis {name!r}"
    return None


def _warn_of_whole(plan):
    reasons = dict.fromkeys(reason for pattern in _KERNELS for reason in plan[pattern].whole)
    # Keys and values of few heads are the common case, and small.
    odd = [reason for reason in reasons if not reason.startswith(_SIZES["K"])]
    if odd:
        warnings.warn(
            f"Some weights stay whole over an axis: {'; '.join(odd)}. It works, and takes more "
            "memory; a mesh whose axes divide these sizes takes less.",
            stacklevel=3,
        )
