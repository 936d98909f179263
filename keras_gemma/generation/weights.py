"""What a program of the engine reads: the model's variables, or a plan made of them."""

from collections.abc import Iterable
from typing import Any

from keras_gemma.generation import plan
from keras_gemma.generation.compiled import changed, marks, traits


class Weights:
    """The variables as they are: any model, no memory beside them."""

    arrays: Any = ()  # what a program is handed beside the variables

    def __init__(self, stack, variables):
        self._stack, self.variables = stack, tuple(variables)
        self._sources = self.variables

    def are_of(self, variables: Iterable[Any]) -> bool:
        """Whether a model still has just these variables; LoRA adds some."""
        return [*map(id, variables)] == [*map(id, self._sources)]

    def stack(self, arrays):
        """The decoder stack over arrays that a program was handed."""
        return self._stack

    def refresh(self) -> None:
        """Follow the variables, if they changed since."""


class PlannedWeights(Weights):
    """A copy of the layers' weights, laid out for decoding; made anew when a variable changed."""

    def __init__(self, stack, variables):
        super().__init__(stack, ())
        self._sources = tuple(variables)
        self._marks: Any = None

    def stack(self, arrays):
        return plan.planned(self._stack, arrays)

    def refresh(self):
        if self._marks is None or changed(self._sources, self._marks):
            self.arrays = ()  # the old ones go before the new ones come
            self.arrays = plan.arrays(self._stack)
            self._marks = marks(self._sources)


def weights_for(stack: Any, variables: Iterable[Any], use_plan: bool) -> Weights:
    """Planned where that is asked for, the backend tells changed weights, and the layers are plain."""
    planned = use_plan and traits().tells_changes and plan.is_plain(stack)
    return (PlannedWeights if planned else Weights)(stack, variables)
