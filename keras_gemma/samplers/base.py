"""The sampler that all samplers are, and that people derive their own from.

B rows, V vocabulary, C candidates.
"""

import contextlib
import contextvars
import math
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_gemma.samplers.noise import noise_of
from keras_gemma.samplers.steps import penalize_repetition


class SamplingContext(NamedTuple):
    """What a sampler may know of the texts; one row per sequence."""

    token_ids: Any  # int32 BL, the text so far, padded on the right
    lengths: Any  # int32 B, how many of them are real
    seeds: Any  # int32 B


# The context of the call that is being traced or run: `get_next_token` has KerasHub's signature,
# and no place for it.
_CONTEXT: contextvars.ContextVar[SamplingContext | None] = contextvars.ContextVar(
    "sampling_context", default=None
)


@keras.saving.register_keras_serializable(package="keras_gemma")
class Sampler:
    """Chooses the next token of each text.

    Derive your own and override `get_next_token(probabilities)`, as in KerasHub; it runs inside a
    compiled program, so it is written in `keras.ops`. `self.draw(probabilities)` draws from a
    distribution, reproducibly: the seed of a text and the position decide.

    Args:
        temperature: logits are divided by it. Below 1 the likely becomes likelier; 0 is greedy.
        repetition_penalty: above 1, tokens of the text so far become less likely.

    Raises:
        ValueError: a temperature below 0, a penalty of 0 or less.

    >>> class Cautious(Sampler):
    ...     def get_next_token(self, probabilities):
    ...         return self.draw(ops.where(probabilities < 0.3, 0.0, probabilities))
    >>> logits = ops.array([[1.0, 1.1, -1.0]])
    >>> context = SamplingContext(ops.array([[5, 0]]), ops.array([1]), ops.array([7]))
    >>> ops.convert_to_numpy(Cautious(temperature=0.7)(logits, context)).tolist()
    [0]
    """

    def __init__(self, temperature: float = 1.0, *, repetition_penalty: float = 1.0):
        if not (0 <= temperature < math.inf):
            raise ValueError(f"temperature must be 0 or more, not {temperature!r}.")
        if not (0 < repetition_penalty < math.inf):
            raise ValueError(f"repetition_penalty must be above 0, not {repetition_penalty!r}.")
        self.temperature = temperature
        self.repetition_penalty = repetition_penalty

    def __call__(self, logits, context: SamplingContext):
        """The next token of each row: float (rows, vocabulary) to int32 (rows,)."""
        logits = self.adjusted(logits, context)
        if self.temperature == 0:
            return ops.cast(ops.argmax(logits, axis=-1), "int32")
        with _given(context):
            chosen = self.get_next_token(self.compute_probabilities(logits))
        return ops.cast(chosen, "int32")

    def adjusted(self, logits, context: SamplingContext):
        """Logits in float32, after the penalty."""
        logits = ops.cast(logits, "float32")
        if self.repetition_penalty == 1:
            return logits
        return penalize_repetition(
            logits, context.token_ids, context.lengths, self.repetition_penalty
        )

    def compute_probabilities(self, logits):
        """The distribution over the vocabulary, float32, with the temperature in it."""
        return ops.softmax(ops.cast(logits, "float32") / self.temperature, axis=-1)

    def get_next_token(self, probabilities):
        """One token of each row, from float32 (rows, vocabulary) to integers (rows,)."""
        raise NotImplementedError(
            f"{type(self).__name__} must define get_next_token(probabilities), which returns "
            "one token id per row."
        )

    def draw(self, probabilities_BC, ids_BC=None, keys=None):
        """Draw one token of each row; `ids_BC` names the candidates, all of them by default.

        Probabilities need not sum to one. `keys` are those of `keys()`, for a draw inside a
        condition.
        """
        rows, width = ops.shape(probabilities_BC)
        everything = ids_BC is None
        ids_BC = ops.arange(width, dtype="int32")[None] if everything else ids_BC
        seeds_B, counters_B = keys or self.keys(rows)
        noise_BC = noise_of(seeds_B, counters_B, ops.cast(ids_BC, "int32"))
        place_B = ops.argmax(ops.log(probabilities_BC) + noise_BC, axis=-1)
        if everything:
            return place_B
        return ops.take_along_axis(ids_BC, place_B[:, None], axis=-1)[:, 0]

    def keys(self, rows: int):
        """What the next draw of each row depends on: its seed and its place in the text."""
        context = _CONTEXT.get()
        if context is not None:
            return context.seeds, context.lengths
        # Called by hand, outside of any text: follow the generator of this sampler, or Keras's.
        source = getattr(self, "seed_generator", None)
        seeds = keras.random.randint((rows,), 0, 2**31 - 1, "int32", seed=source)
        return seeds, ops.zeros_like(seeds)

    @property
    def variables(self) -> list:
        """States of the `keras.random.SeedGenerator`s that are attributes of this sampler."""
        kept = vars(self).values()
        return [v.state for v in kept if isinstance(v, keras.random.SeedGenerator)]

    def get_config(self) -> dict[str, Any]:
        config = {"temperature": self.temperature}
        if self.repetition_penalty != 1:  # KerasHub's samplers don't know it
            config["repetition_penalty"] = self.repetition_penalty
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]):
        return cls(**config)


@contextlib.contextmanager
def _given(context):
    token = _CONTEXT.set(context)
    try:
        yield
    finally:
        _CONTEXT.reset(token)
