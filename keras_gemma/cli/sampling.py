"""The options that say how the next token is chosen, shared by `generate` and `chat`."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import click

CLASSES = {
    "greedy": "GreedySampler",
    "random": "RandomSampler",
    "top_k": "TopKSampler",
    "top_p": "TopPSampler",
    "min_p": "MinPSampler",
    "typical": "TypicalSampler",
}
# What a class calls a number of `Sampler`, where it has a name of its own for it.
SPELLINGS = {
    "TopKSampler": {"top_k": "k"},
    "TopPSampler": {"top_p": "p", "top_k": "k"},
    "MinPSampler": {"min_p": "p"},
    "TypicalSampler": {"typical_p": "p"},
}
CUTS = ("top_k", "top_p", "min_p", "typical_p")


class Sampling(NamedTuple):
    """A sampler's class in `keras_gemma.samplers`, and its arguments."""

    class_name: str
    arguments: dict[str, Any]

    def build(self) -> Any:
        """The sampler."""
        from keras_gemma import samplers

        return getattr(samplers, self.class_name)(**self.arguments)

    def code(self) -> str:
        """The Python that builds it."""
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        return f"keras_gemma.samplers.{self.class_name}({arguments})"


def choose(name: str | None, numbers: dict[str, Any]) -> Sampling:
    """The sampler that these options ask for; a number alone is enough to say which.

    >>> choose(None, {"top_k": 40}).code()
    'keras_gemma.samplers.TopKSampler(k=40)'
    >>> choose(None, {"top_k": 40, "min_p": 0.05}).code()
    'keras_gemma.samplers.Sampler(top_k=40, min_p=0.05)'
    """
    cuts = {cut for cut in CUTS if cut in numbers}
    if name is not None:
        class_name = CLASSES[name]
    elif cuts:  # a class that has all of them by its own names, or the one that has all there are
        made = (made for made, names in SPELLINGS.items() if cuts <= set(names))
        class_name = next(made, "Sampler")
    else:
        class_name = "RandomSampler" if "temperature" in numbers else "GreedySampler"
    spelling = SPELLINGS.get(class_name, {})
    if name == "greedy":
        refused = [number for number in numbers if number in (*CUTS, "temperature")]
    elif name is not None:
        refused = [cut for cut in CUTS if cut in cuts and cut not in spelling]
    else:
        refused = []
    if refused:
        option = refused[0].replace("_", "-")
        raise click.UsageError(f"--sampler {name} takes no --{option}.")
    return Sampling(class_name, {spelling.get(key, key): value for key, value in numbers.items()})


class _Number(click.FloatRange):
    """A range that NaN is outside of; infinity, too."""

    def convert(self, value, param, ctx):
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


# Spelled as the arguments of `Sampler`, in the order in which code shows them.
NUMBERS = {
    "top_p": (_Number(0, 1, min_open=True), "P", "Among the likeliest of total P."),
    "top_k": (click.IntRange(1), "K", "Choose among the K likeliest."),
    "min_p": (_Number(0, 1), "P", "Among those with P times the likeliest's probability."),
    "typical_p": (
        _Number(0, 1, min_open=True),
        "P",
        "Among those of usual surprise, of total P.",
    ),
    "temperature": (_Number(0, 100), "T", "0 always takes the likeliest."),
    "repetition_penalty": (
        _Number(0, min_open=True),
        "X",
        "Above 1, what the text has comes less often.",
    ),
    "presence_penalty": (_Number(), "X", "Taken from logits of tokens that the answer has."),
    "frequency_penalty": (_Number(), "X", "Likewise, for each time it has them."),
}


def sampling_options(verb: Callable) -> Callable:
    """Give a verb the options of sampling; it gets them as `sampling` and `limits`."""

    @functools.wraps(verb)
    def start(*args, sampler, max_new_tokens, stop, **keywords):
        numbers = {name: keywords.pop(name) for name in NUMBERS}
        given = {name: number for name, number in numbers.items() if number is not None}
        limits = {"max_new_tokens": max_new_tokens}
        if stop:
            limits["stop"] = list(stop)
        return verb(*args, sampling=choose(sampler, given), limits=limits, **keywords)

    options = [
        click.option(
            "--max-new-tokens",
            type=click.IntRange(0),
            default=256,
            show_default=True,
            metavar="N",
            help="Most tokens to add.",
        ),
        click.option("--stop", multiple=True, metavar="TEXT", help="End before it; repeatable."),
        click.option(
            "--sampler",
            type=click.Choice(list(CLASSES)),
            help="How a token is chosen.  [default: greedy]",
        ),
    ]
    for name, (kind, metavar, text) in NUMBERS.items():
        spelled = "--" + name.replace("_", "-")
        options.append(click.option(spelled, type=kind, metavar=metavar, help=text))
    for option in reversed(options):
        start = option(start)
    return start
