"""A table of rules from our weights to the tensors of a checkpoint: it runs both ways.

    Rule("decoder_block_{i}/attention/query/kernel",
         "model.layers.{i}.self_attn.q_proj.weight", "(n h) d -> n d h")

The left side of a pattern is their tensor, the right side ours; from left to right it imports,
from right to left it exports. Axes in brackets are one axis of theirs.
"""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

Shape = tuple[int, ...]


class Rule(NamedTuple):
    """Where our weights lie in a checkpoint, and how.

    Attributes:
        ours: path of our variable; `{i}` is the layer. Several paths where one tensor of theirs
            holds them one after another along its first axis.
        theirs: name of the tensor; `{i}` is the layer, and `{_i}` nothing for the first, then _1, _2, …
        pattern: the axes, theirs on the left; `1` is an axis that we do not have. Without a
            pattern both are alike.
        offset: what they have added to ours (1 where a norm is stored as 1 + scale).
    """

    ours: str | tuple[str, ...]
    theirs: str
    pattern: str = ""
    offset: float = 0.0


class Part(NamedTuple):
    """One of our weights, as part of a tensor."""

    path: str
    shape: Shape
    rows: int  # of the tensor's first axis


class Entry(NamedTuple):
    """A rule for one tensor of one model: what lies there, in which shape."""

    theirs: str
    shape: Shape
    parts: tuple[Part, ...]
    pattern: str
    offset: float

    def to_ours(self, tensor: np.ndarray) -> Iterable[tuple[str, np.ndarray]]:
        """`(path, array)` of each of our weights in one tensor of theirs; views where possible."""
        first = 0
        for part in self.parts:
            rows = tensor[first : first + part.rows] if len(self.parts) > 1 else tensor
            first += part.rows
            array = _import(rows, self.pattern, part.shape)
            yield part.path, _shifted(array, -self.offset)

    def to_theirs(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        """Their tensor, of our weights by path."""
        made = [_export(arrays[part.path], self.pattern) for part in self.parts]
        return _shifted(np.concatenate(made) if len(made) > 1 else made[0], self.offset)


def entries(rules: Iterable[Rule], shapes: Mapping[str, Shape]) -> list[Entry]:
    """What the rules say of a model whose weights have these shapes, in the order of the rules.

    >>> rule = Rule("block_{i}/kernel", "{i}.weight", "(n h) d -> n d h")
    >>> [(e.theirs, e.shape) for e in entries([rule], {"block_0/kernel": (2, 5, 3)})]
    [('0.weight', (6, 5))]

    Raises:
        ValueError: a weight that no rule speaks of, or two do: a fault of the table.
    """
    found, spoken_of = [], set()
    for rule in rules:
        paths = (rule.ours,) if isinstance(rule.ours, str) else rule.ours
        layered = "{i}" in paths[0]
        for layer in range(_layers(shapes)) if layered else (0,):
            here = [path.replace("{i}", str(layer)) for path in paths]
            if here[0] not in shapes:  # a weight that this model does without
                continue
            theirs = [theirs_shape(rule.pattern, shapes[path]) for path in here]
            parts = tuple(
                Part(path, shapes[path], shape[0]) for path, shape in zip(here, theirs, strict=True)
            )
            whole = (sum(part.rows for part in parts), *theirs[0][1:])
            name = rule.theirs.replace("{i}", str(layer)).replace("{_i}", f"_{layer}" * (layer > 0))
            found.append(Entry(name, whole, parts, rule.pattern, rule.offset))
            if twice := spoken_of & set(here):
                raise ValueError(f"Two rules speak of {', '.join(sorted(twice))}.")
            spoken_of |= set(here)
    if left := [path for path in shapes if path not in spoken_of]:
        raise ValueError(f"No rule speaks of {', '.join(left[:5])}.")
    return found


def theirs_shape(pattern: str, ours: Shape) -> Shape:
    """The shape of their tensor.

    >>> theirs_shape("(n h) d -> n d h", (2, 5, 3))
    (6, 5)
    """
    if not pattern:
        return ours
    sizes, left, _ = _parsed(pattern, ours)
    return tuple(math.prod(sizes[axis] for axis in group) for group in left)


def theirs_axes(pattern: str, ours: Shape) -> tuple[Shape, ...]:
    """The sizes of our axes in each axis of theirs.

    >>> theirs_axes("(n h) d -> n d h", (2, 5, 3))
    ((2, 3), (5,))
    """
    sizes, left, _ = _parsed(pattern, ours)
    return tuple(tuple(sizes[axis] for axis in group) for group in left)


def _import(tensor, pattern, ours):
    if not pattern:
        return tensor
    sizes, left, right = _parsed(pattern, ours)
    flat = [axis for group in left for axis in group if axis != "1"]
    tensor = tensor.reshape([sizes[axis] for axis in flat])
    return tensor.transpose([flat.index(axis) for axis in right])


def _export(array, pattern):
    if not pattern:
        return array
    sizes, left, right = _parsed(pattern, array.shape)
    flat = [axis for group in left for axis in group if axis != "1"]
    array = array.transpose([right.index(axis) for axis in flat])
    return array.reshape([math.prod(sizes[axis] for axis in group) for group in left])


def _parsed(pattern, ours):
    """`(size of each axis, groups of axes on the left, axes on the right)`."""
    left, right = (side.strip() for side in pattern.split("->"))
    groups, inside = [], False
    for token in left.replace("(", "( ").replace(")", " )").split():
        if token in "()":
            inside = token == "("
            if inside:
                groups.append([])
        elif inside:
            groups[-1].append(token)
        else:
            groups.append([token])
    axes = right.split()
    return {"1": 1, **dict(zip(axes, ours, strict=True))}, groups, axes


def _shifted(array, offset):
    # In float32, as the models add it; a float32 1 + w holds any bfloat16 w of the usual sizes.
    return (array.astype("float32") + np.float32(offset)) if offset else array


def _layers(shapes):
    """How many layers the paths speak of."""
    numbers = [part.rpartition("_")[2] for path in shapes for part in path.split("/")[:1]]
    return 1 + max((int(number) for number in numbers if number.isdigit()), default=-1)
