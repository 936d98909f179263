"""A loop on a GPU whose step is started as a whole, by a CUDA graph.

A step of decoding is a thousand small operations, each of which takes Python and the driver longer to start
than the GPU to do. A graph of them starts in microseconds. It reads and writes at fixed places: what a step
writes to in place, and what is only given, is taken where it lies; the rest of the state is copied to a
place of the graph's own. Where those lie elsewhere, in a new generation say, the graph is made anew from the
traced step, which takes as long as a few steps do.
"""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch.utils import _pytree as pytree

from keras_gemma.generation.torch_step import traced, written_inputs

_SLOW = "A step can't be recorded, and starts each operation by itself, which is slow"
_KEPT = 4  # graphs; each has memory of its own for what a step computes


class TracedStep(NamedTuple):
    """A step, and the question whether another one follows, for states of one shape."""

    run: Callable  # (arrays given, arrays of a state) to (arrays of the next, whether to go on)
    written: frozenset[int]  # which arrays of the state it writes to in place


class Recorded(NamedTuple):
    """A step at fixed places."""

    replay: Callable
    state: list  # its own place for each array of a state; `None` where it is the caller's
    goes_on: Any


class CudaLoop:
    """Runs loops by graphs, and keeps a few of those.

    Args:
        weights: variables that a step may read though they aren't given to it.
        record: makes of a function without arguments one that does the same again.
    """

    def __init__(self, weights: Iterable[Any] = (), record: Callable | None = None):
        self._weights, self._record = tuple(weights), record or Recorder()
        self._steps: dict[Any, TracedStep | None] = {}
        self._recorded: OrderedDict[Any, Recorded] = OrderedDict()

    def __call__(self, while_true: Callable, step: Callable, state: Any, given: Any) -> Any:
        """`while while_true(state): state = step(given, state)`; the state given is used up.

        A step is known again by itself and by the shapes: what else it and `while_true` depend on is fixed.
        """
        if not bool(while_true(state)):
            return state
        sources, form_of_given = pytree.tree_flatten(given)
        leaves, form = pytree.tree_flatten(state)
        shapes = step, form_of_given, form, *map(_shape, (*sources, *leaves))
        if shapes not in self._steps:

            def whole(sources, leaves):
                given = pytree.tree_unflatten(sources, form_of_given)
                state = step(given, pytree.tree_unflatten(leaves, form))
                return pytree.tree_leaves(state), while_true(state)

            self._steps[shapes] = self._traced(whole, sources, leaves)
        found = self._steps[shapes]
        if found is None:
            while bool(while_true(state)):
                state = step(given, state)
            return state
        return pytree.tree_unflatten(self._run(shapes, found, sources, leaves), form)

    def _traced(self, whole, sources, leaves):
        weights = [variable.value for variable in self._weights]
        try:
            module = traced(whole, (sources, leaves), weights)
        except Exception as error:  # noqa: BLE001  (of whatever kind: what can't be traced can be run)
            warnings.warn(f"{_SLOW}: {error}", stacklevel=2)
            return None
        written = (number - len(sources) for number in written_inputs(module))
        return TracedStep(module, frozenset(written))

    def _run(self, shapes, found, sources, leaves):
        fixed = *sources, *(v.value for v in self._weights), *(leaves[i] for i in found.written)
        key = shapes, *(array.data_ptr() for array in fixed)
        if key not in self._recorded:
            # The first step is taken as it is: libraries get ready in it, which a graph can't hold.
            leaves, goes_on = found.run(sources, leaves)
            if not bool(goes_on):
                return leaves
            self._recorded[key] = self._made(found, sources, leaves)
            if len(self._recorded) > _KEPT:
                self._recorded.popitem(last=False)
        self._recorded.move_to_end(key)
        replay, places, goes_on = self._recorded[key]
        for place, leaf in zip(places, leaves):
            if place is not None:
                place.copy_(leaf)
        replay()
        while bool(goes_on):
            replay()
        return [leaf if place is None else place.clone() for place, leaf in zip(places, leaves)]

    def _made(self, found, sources, leaves):
        places = [None if i in found.written else x.clone() for i, x in enumerate(leaves)]
        goes_on = torch.ones((), dtype=torch.bool, device=leaves[0].device)

        def again():
            # `leaves` are held by this function alone, not by the graph that is made of it.
            state = [leaf if place is None else place for place, leaf in zip(places, leaves)]
            made, more = found.run(sources, state)
            for place, new in zip(places, made):
                if place is not None and place is not new:
                    place.copy_(new)
            goes_on.copy_(more)

        try:
            replay = self._record(again)
        except RuntimeError as error:
            warnings.warn(f"{_SLOW}: {error}", stacklevel=2)
            replay = again
        return Recorded(replay, places, goes_on)


class Recorder:
    """Makes CUDA graphs; they share the memory for what is computed on the way."""

    def __init__(self):
        self._pool: Any = None

    def __call__(self, function: Callable) -> Callable:
        """A function that starts all that `function` starts on the GPU."""
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        graph, current, apart = (
            torch.cuda.CUDAGraph(),
            torch.cuda.current_stream(),
            torch.cuda.Stream(),
        )
        apart.wait_stream(current)
        with torch.cuda.stream(apart):
            graph.capture_begin(pool=self._pool)
            try:
                function()
            finally:
                graph.capture_end()
        current.wait_stream(apart)
        return graph.replay


def _shape(x):
    return tuple(x.shape), x.stride(), x.dtype
