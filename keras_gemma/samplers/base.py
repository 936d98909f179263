"""The sampler that all samplers are, and that people derive their own from.

B rows, V vocabulary, C candidates.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from keras_gemma import compilers
from keras_gemma.samplers.context import SamplingContext, current, given
from keras_gemma.samplers.noise import noise_of
from keras_gemma.samplers.options import NUMBERS, checked_number, is_neutral, is_number
from keras_gemma.samplers.steps import (
    applied,
    are_numbers,
    checked_step,
    penalize_repetition,
    penalize_use,
    saved_step,
    step_name,
    token_counts,
)
from keras_gemma.samplers.token_rules import TokenRules
from keras_gemma.samplers.truncation import Truncation, draw_truncated

# What comes for a row whose logits a user's step made NaN or infinite.
NO_TOKEN = -1
# Below it a float32 may count as 0, and dividing by it may give NaN.
_TINY = float(np.finfo("float32").tiny)


@keras.saving.register_keras_serializable(package="keras_gemma")
class Sampler:
    """Chooses the next token of each text, by a chain of steps.

    Logits go through, in this order: bias and bans, repetition, presence and frequency penalties,
    your own `steps`, forced tokens, temperature, softmax. Of the distribution that results,
    top-k, top-p and min-p keep a part each, and what all of them keep stays; typical sampling
    keeps a part of that; one token is drawn of what is left, reproducibly: the seed of a text and
    the place decide. A step that is left out costs nothing.

    Each number may be a list of one number per row of the batch.

    Derive your own and override `get_next_token(probabilities)`, as in KerasHub: it stands for
    truncation and draw. It runs inside a compiled program, so it is written in `keras.ops`;
    `self.draw(probabilities)` draws.

    Args:
        temperature: logits are divided by it. Below 1 the likely becomes likelier; 0 is greedy.
        top_k: keep the k likeliest; more than the vocabulary holds means all.
        top_p: keep the fewest that hold more than this share, from 0 (the likeliest) to 1 (all).
        min_p: keep those with at least this share of the likeliest one's probability
            (arXiv 2407.01082).
        typical_p: keep the fewest that hold this share, those first whose surprise is nearest to
            what the distribution makes one expect (arXiv 2202.00666).
        repetition_penalty: above 1, tokens of prompt and answer become less likely: their
            positive logits are divided by it, negative ones multiplied (arXiv 1909.05858).
        presence_penalty: subtracted from the logits of tokens of the answer.
        frequency_penalty: subtracted for each time that a token stands in the answer.
        logit_bias: id to what is added to its logit; minus infinity bans it.
        banned_tokens: ids that never come.
        forced_tokens: ids that the answer begins with; `None` among them is a free place. Or a
            dict of place to id.
        steps: functions `(logits, context) -> logits`, float32 of shape (rows, vocabulary), and a
            `SamplingContext`. They are traced into the program. Those registered by
            `keras.saving.register_keras_serializable` are saved by name, and can be given by it.
        seed: of the draws, when `generate` is given none of its own; with `None` there, too, they
            follow `keras.utils.set_random_seed`.

    Raises:
        ValueError: a number out of range, an id below 0 or, once logits come, beyond the
            vocabulary; a ban of every token; a forced token that is banned.

    >>> sampler = Sampler(temperature=0.7, top_k=64, min_p=0.05, banned_tokens=[0])
    >>> logits = ops.array([[9.0, 1.1, -1.0]])
    >>> context = SamplingContext(ops.array([[2, 2]]), ops.array([1]), ops.array([7]))
    >>> ops.convert_to_numpy(sampler(logits, context)).tolist()
    [1]
    """

    # Tokens that are looked at first: they hold all that may be drawn nearly always, and sorting
    # 256,000 takes 120 ms where finding these takes 4 (two CPU cores, JAX). `None` always sorts,
    # without a condition: for programs that can't branch.
    candidates: int | None = 1024
    # Options that a class of KerasHub's spells in another way.
    _spelling: ClassVar[dict[str, str]] = {}

    temperature: Any
    top_k: Any
    top_p: Any
    min_p: Any
    typical_p: Any
    repetition_penalty: Any
    presence_penalty: Any
    frequency_penalty: Any

    def __init__(
        self,
        temperature: Any = 1.0,
        *,
        top_k: Any = None,
        top_p: Any = None,
        min_p: Any = None,
        typical_p: Any = None,
        repetition_penalty: Any = 1.0,
        presence_penalty: Any = 0.0,
        frequency_penalty: Any = 0.0,
        logit_bias: Mapping[int, Any] | Iterable | None = None,
        banned_tokens: Iterable[int] = (),
        forced_tokens: Sequence[int | None] | Mapping[int, int] = (),
        steps: Iterable[Callable | str] = (),
        seed: int | None = None,
    ):
        numbers = {
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "min_p": min_p,
            "typical_p": typical_p,
            "repetition_penalty": repetition_penalty,
            "presence_penalty": presence_penalty,
            "frequency_penalty": frequency_penalty,
        }
        for name, value in numbers.items():
            setattr(self, name, checked_number(name, value, self._spelling.get(name)))
        try:
            self.logit_bias = dict(logit_bias or {})
        except (TypeError, ValueError):
            raise TypeError(f"logit_bias is a dict of id to number, not {logit_bias!r}.") from None
        self.banned_tokens = tuple(banned_tokens)
        self.token_rules = TokenRules.of(self.logit_bias, self.banned_tokens, forced_tokens)
        self.forced_tokens = self.token_rules.forced
        self.steps = tuple(map(checked_step, steps))
        if len(set(self._rows().values())) > 1:
            raise ValueError(f"Options have one number per row, for unlike rows: {self._rows()}.")
        self.seed = seed
        if seed is not None:
            self.seed_generator = keras.random.SeedGenerator(seed)

    def __call__(self, logits, context: SamplingContext):
        """The next token of each row: float (rows, vocabulary) to int32 (rows,).

        `NO_TOKEN` stands for none: where a step of yours made NaN, infinite or no logits of a row.
        """
        logits = self.adjusted(logits, context)
        with given(context):
            if self.takes_likeliest():
                chosen = compilers.argmax(logits)
            else:
                chosen = self.get_next_token(self.compute_probabilities(logits))
        chosen = ops.cast(chosen, "int32")
        return ops.where(are_numbers(logits), chosen, NO_TOKEN) if self.steps else chosen

    def adjusted(self, logits, context: SamplingContext):
        """Logits in float32, after all steps that come before the temperature."""
        self._check_shape(*logits.shape, context)
        logits, width = ops.cast(logits, "float32"), logits.shape[-1]
        if "logit_bias" in context.settings:
            logits = logits + context.settings["logit_bias"]
        logits = self.token_rules.biased(logits)
        repetition, presence, frequency = (
            self.number(f"{name}_penalty", context)
            for name in ("repetition", "presence", "frequency")
        )
        if repetition is not None:
            start = ops.zeros_like(context.lengths)
            counts = token_counts(context.token_ids, start, context.lengths, width)
            logits = penalize_repetition(logits, counts, repetition)
        if presence is not None or frequency is not None:
            start = _answer_starts(context, "A presence or frequency penalty")
            counts = token_counts(context.token_ids, start, context.lengths, width)
            logits = penalize_use(logits, counts, presence, frequency)
        for step in self.steps:
            logits = applied(step, logits, context)
        if self.forced_tokens:
            start = _answer_starts(context, "forced_tokens")
            logits = self.token_rules.forcing(logits, context.lengths - start)
        return logits

    def takes_likeliest(self) -> bool:
        """Whether it is known before any number comes that every row takes its likeliest token."""
        temperature = self.number("temperature")
        return is_number(temperature) and bool(temperature < _TINY)

    def compute_probabilities(self, logits):
        """The distribution over the vocabulary, float32, with the temperature in it."""
        logits = ops.cast(logits, "float32")
        temperature = self.number("temperature")
        if temperature is None:
            return ops.softmax(logits, axis=-1)
        # The largest goes first: what a small temperature makes infinite must be negative.
        logits = logits - ops.max(logits, axis=-1, keepdims=True)
        if is_number(temperature) and temperature >= _TINY:
            return ops.softmax(logits / temperature, axis=-1)
        place = ops.arange(logits.shape[-1], dtype="int32")[None]
        likeliest = compilers.argmax(logits)[:, None]
        greedy = ops.cast(place == likeliest, "float32")
        if is_number(temperature):
            return greedy
        cold = temperature[:, None] < _TINY
        drawn = ops.softmax(logits / ops.where(cold, 1.0, temperature[:, None]), axis=-1)
        return ops.where(cold, greedy, drawn)

    def get_next_token(self, probabilities):
        """One token of each row, from float32 (rows, vocabulary) to integers (rows,)."""
        keys = self.keys(ops.shape(probabilities)[0])
        return draw_truncated(
            probabilities,
            Truncation(*map(self.number, Truncation._fields)),
            lambda kept, ids: self.draw(kept, ids, keys),
            self.candidates if compilers.can_branch() else None,
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
        place_B = compilers.argmax(ops.log(probabilities_BC) + noise_BC)
        if everything:
            return place_B
        return ops.take_along_axis(ids_BC, place_B[:, None], axis=-1)[:, 0]

    def keys(self, rows: int):
        """What the next draw of each row depends on: its seed and its place in the text."""
        context = current()
        if context is not None:
            return context.seeds, context.lengths
        # Called by hand, outside of any text: follow the generator of this sampler, or Keras's.
        source = getattr(self, "seed_generator", None)
        seeds = keras.random.randint((rows,), 0, 2**31 - 1, "int32", seed=source)
        return seeds, ops.zeros_like(seeds)

    def number(self, name: str, context: SamplingContext | None = None) -> Any:
        """The number of that name, from the settings of the texts or else from this sampler.

        A Python number, or float32 (rows,); `None` where it changes nothing, so that its step can
        be left out of the program. `context` is the one of the call under way by default.
        """
        context = context or current()
        if context is not None and name in context.settings:
            return context.settings[name]
        value = getattr(self, name)
        if is_neutral(name, value):
            return None
        return value if is_number(value) else ops.convert_to_tensor(value, "float32")

    def check(self, vocabulary_size: int) -> None:
        """Tell of what can't work with a vocabulary, before a program is compiled.

        Raises:
            ValueError: an id is outside it, every token is banned, or one of `steps` makes another
                shape of logits, or makes NaN of random ones.
        """
        self.token_rules.check(vocabulary_size)
        rows = max(self._rows().values(), default=2)
        logits = np.random.default_rng(0).normal(0, 3, (rows, vocabulary_size)).astype("float32")
        ones = ops.ones((rows,), "int32")
        context = SamplingContext(ops.zeros((rows, 16), "int32"), ones, ones - 1, ones)
        logits = ops.convert_to_tensor(logits)
        for step in self.steps:
            logits = applied(step, logits, context)
            if not ops.convert_to_numpy(are_numbers(logits)).all():
                raise ValueError(
                    f"The sampling step {step_name(step)} makes logits of NaN, of plus infinity, "
                    "or of minus infinity throughout. Finite ones, and minus infinity for what "
                    "must not come, can be drawn from."
                )

    def _check_shape(self, rows, vocabulary_size, context):
        self.token_rules.check(vocabulary_size)
        for name, length in self._rows().items():
            if length != rows:
                raise ValueError(f"{name} has {length} numbers, and there are {rows} rows.")
        for name in context.settings:
            if name not in NUMBERS and name != "logit_bias":
                raise ValueError(f"settings has {name!r}; it may have {', '.join(NUMBERS)}.")

    def _rows(self):
        """How many rows each option is for that has one number per row."""
        found = {name: getattr(self, name) for name in NUMBERS}
        found = {name: len(x) for name, x in found.items() if isinstance(x, np.ndarray)}
        return found | (
            {"logit_bias": len(self.token_rules.bias)} if len(self.token_rules.bias) > 1 else {}
        )

    @property
    def is_plain(self) -> bool:
        """Whether all that it does is this package's, and nothing a step of yours or a class of yours."""
        own = type(self).__module__.startswith(__package__.partition(".")[0] + ".")
        return own and not self.steps

    @property
    def takes_the_only(self) -> bool:
        """Whether it is certain to choose a token that alone is possible."""
        return self.is_plain and not self.forced_tokens and not len(self.token_rules.ids)

    @property
    def variables(self) -> list:
        """States of the `keras.random.SeedGenerator`s that are attributes of this sampler."""
        kept = vars(self).values()
        return [v.state for v in kept if isinstance(v, keras.random.SeedGenerator)]

    def get_config(self) -> dict[str, Any]:
        # KerasHub's samplers know the temperature and what they spell in their own way.
        config: dict[str, Any] = {}
        for name in NUMBERS:
            value, said = getattr(self, name), self._spelling.get(name)
            if said or name == "temperature" or not is_neutral(name, value):
                config[said or name] = _plain(value)
        if self.logit_bias:  # as pairs: the keys of JSON are strings
            config["logit_bias"] = [[int(i), _plain(bias)] for i, bias in self.logit_bias.items()]
        if self.banned_tokens:
            config["banned_tokens"] = list(map(int, self.banned_tokens))
        if self.forced_tokens:
            config["forced_tokens"] = list(self.forced_tokens)
        if self.steps:
            config["steps"] = [saved_step(step) for step in self.steps]
        return config if self.seed is None else {**config, "seed": self.seed}

    @classmethod
    def from_config(cls, config: dict[str, Any]):
        return cls(**config)


def _answer_starts(context, what):
    if context.prompt_lengths is None:
        raise ValueError(f"{what} counts from where the answer begins: give prompt_lengths.")
    return context.prompt_lengths


def _plain(value):
    return value.tolist() if isinstance(value, np.ndarray) else value
