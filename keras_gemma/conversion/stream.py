"""Tensors from a checkpoint into variables and back, one at a time.

First everything is compared by headers, then numbers move: a checkpoint that does not fit changes
no variable. Two threads read tensors, look at them and turn them as the variables want them, so
that no more than two tensors and their turned copies are held beside the model.
"""

import collections
import functools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from keras_gemma import arrays
from keras_gemma.conversion.dtypes import DTYPES, first_not_finite
from keras_gemma.conversion.tensors import Tensors, Writable
from keras_gemma.conversion.weight_map import Entry
from keras_gemma.presets.errors import BadPresetError

# More are not faster: memory gives the pace. Each holds a tensor.
_THREADS = 2


class Fit(NamedTuple):
    """How a checkpoint's tensors fit a model."""

    entries: list[Entry]  # those that can be loaded
    missing: list[str]
    misshapen: list[str]
    unused: list[str]

    @property
    def problems(self) -> list[str]:
        """Each as a sentence's part; the gravest first."""
        return [*self.misshapen, *self.missing, *self.unused]


def compare(
    entries: Iterable[Entry],
    tensors: Tensors,
    ignored: Callable[[str], bool] = lambda name: False,
) -> Fit:
    """Which tensors are there in the shape that a model needs; `ignored` ones may lie beside them."""
    headers, good, missing, misshapen, known = tensors.headers(), [], [], [], set()
    for entry in entries:
        known.add(entry.theirs)
        found = headers.get(entry.theirs)
        if found is None:
            missing.append(f"{entry.theirs} {entry.shape} is missing")
        elif tuple(found.shape) != entry.shape:
            misshapen.append(f"{entry.theirs} has shape {found.shape}, awaited {entry.shape}")
        else:
            good.append(entry)
    unused = [
        f"{name} {stored.shape} is unknown"
        for name, stored in headers.items()
        if name not in known and not ignored(name)
    ]
    return Fit(good, missing, misshapen, unused)


def check(fit: Fit, tensors: Tensors, hint: str = "") -> None:
    """Raises BadPresetError, naming the first five problems, unless all fits."""
    if fit.problems:
        raise BadPresetError(
            f"{tensors.path} does not fit its configuration: {_first(fit.problems)}.{hint}"
        )


def report(fit: Fit, tensors: Tensors) -> None:
    """Warns of the problems of a checkpoint that was loaded all the same."""
    if kept := [*fit.misshapen, *fit.missing]:
        warnings.warn(
            f"{tensors.path}: {len(kept)} tensors could not be loaded, and the weights they are for "
            f"keep what they were drawn as: {_first(kept)}.",
            stacklevel=2,
        )
    if fit.unused:
        unused = f"{len(fit.unused)} tensors were not used: {_first(fit.unused)}"
        warnings.warn(f"{tensors.path}: {unused}.", stacklevel=2)


def _first(problems):
    more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
    return "; ".join(problems[:5]) + more


def load(
    variables: Mapping[str, Any],
    entries: Iterable[Entry],
    tensors: Tensors,
    check_finite: bool = True,
) -> None:
    """Fill variables, each in its own dtype and sharding.

    Args:
        variables: Keras variables by path.
        entries: of `compare`.
        tensors: where the numbers are.
        check_finite: refuse a weight that is not a number, naming it.
    """

    def ready(entry):
        tensor = tensors.read(entry.theirs)
        if check_finite and (place := first_not_finite(tensor)) is not None:
            raise BadPresetError(
                f"{tensors.path}: {entry.theirs} is not a finite number at {place}. "
                "check_finite=False loads it anyway."
            )
        return [
            (variables[path], arrays.usable(array, variables[path].dtype))
            for path, array in entry.to_ours(tensor)
        ]

    # Largest first: a large tensor's copy should not come on top of a model that is already full.
    largest_first = sorted(entries, key=lambda entry: -math.prod(entry.shape))
    for pairs in _ahead(ready, largest_first):
        for variable, array in pairs:
            arrays.place(variable, array)


def _ahead(function, items):
    """`map` whose threads are at work on the next items while one is used."""
    with ThreadPoolExecutor(_THREADS) as pool:
        coming = collections.deque()
        for item in items:
            coming.append(pool.submit(function, item))
            if len(coming) == _THREADS:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()


def writables(
    entries: Iterable[Entry], read: Callable[[str], np.ndarray], dtype: str | None
) -> Iterator[Writable]:
    """What a writer is to write: their tensors, made of our weights when their turn comes.

    Args:
        entries: of the format's rules.
        read: the numbers of one of our weights, by path.
        dtype: what the numbers become; `None` leaves that, and the name of it, to the writer.
    """

    def numbers(entry):
        arrays = {part.path: read(part.path) for part in entry.parts}
        made = np.ascontiguousarray(entry.to_theirs(arrays))
        return made.astype(DTYPES[dtype], copy=False) if dtype else made

    for entry in entries:
        yield Writable(entry.theirs, entry.shape, dtype or "", functools.partial(numbers, entry))
