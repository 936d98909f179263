"""What a program of the engine reads: the model's variables, or a plan made of them."""

from collections.abc import Iterable
from typing import Any

from keras_gemma.generation import kernel_plan, kernels, plan
from keras_gemma.generation.compiled import changed, marks


class Weights:
    """The variables as they are: any model, no memory beside them."""

    arrays: Any = ()  # what a program is handed beside the variables
    traceable = True  # whether a step over them can be traced into a graph of PyTorch's operations

    def __init__(self, stack, variables):
        self._stack, self.variables = stack, tuple(variables)
        self.sources = self.variables

    def are_of(self, variables: Iterable[Any]) -> bool:
        """Whether a model still has just these variables; LoRA adds some."""
        return [*map(id, variables)] == [*map(id, self.sources)]

    def stack(self, arrays):
        """The decoder stack over arrays that a program was handed."""
        return self._stack

    def refresh(self) -> None:
        """Follow the variables, if they changed since."""

    def forget(self) -> None:
        """Let go of what was made of the variables, until it is asked for."""


class PlannedWeights(Weights):
    """The layers' weights laid out for decoding; made anew when a variable changed.

    `made_by` is a module with `arrays(stack)` and `planned(stack, arrays)`.
    """

    def __init__(self, stack, variables, made_by=plan):
        super().__init__(stack, ())
        self.sources = tuple(variables)
        self.traceable = made_by is not kernel_plan
        self._made_by, self._marks, self._planned = made_by, None, None

    def stack(self, arrays):
        if arrays is not self.arrays:  # those of a program that is being compiled
            return self._made_by.planned(self._stack, arrays)
        if self._planned is None:
            self._planned = self._made_by.planned(self._stack, arrays)
        return self._planned

    def refresh(self):
        if self._marks is None or changed(self.sources, self._marks):
            self.forget()  # the old ones go before the new ones come
            self.arrays = self._made_by.arrays(self._stack)
            self._marks = marks(self.sources)

    def forget(self):
        self.arrays, self._marks, self._planned = (), None, None


def weights_for(stack: Any, variables: Iterable[Any], use_plan: bool) -> Weights:
    """Planned where that is asked for and the layers are plain."""
    if not (use_plan and plan.is_plain(stack)):
        return Weights(stack, variables)
    by_kernels = stack.token_embedding.compute_dtype in kernels.DTYPES and kernels.found().used
    return PlannedWeights(stack, variables, kernel_plan if by_kernels else plan)
