"""The options that say how the next token is chosen, shared by `generate` and `chat`."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import click

CLASSES = {
    "greedy": "GreedySampler",
    "random": "RandomSampler",
    "top_k": "TopKSampler",
    "top_p": "TopPSampler",
}


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


def choose(name: str | None, temperature, top_k, top_p) -> Sampling:
    """The sampler that these options ask for; a number alone is enough to say which.

    >>> choose(None, None, 40, None).code()
    'keras_gemma.samplers.TopKSampler(k=40)'
    """
    if name is None:
        name = "top_p" if top_p is not None else "top_k" if top_k is not None else None
        name = name or ("greedy" if temperature is None else "random")
    allowed = {
        "greedy": (),
        "random": ("temperature",),
        "top_k": ("k", "temperature"),
        "top_p": ("p", "k", "temperature"),
    }[name]
    given = {"k": top_k, "p": top_p, "temperature": temperature}
    arguments = {key: value for key, value in given.items() if value is not None}
    for key in arguments:
        if key not in allowed:
            option = {"k": "--top-k", "p": "--top-p"}.get(key, f"--{key}")
            raise click.UsageError(f"--sampler {name} takes no {option}.")
    return Sampling(CLASSES[name], {key: arguments[key] for key in allowed if key in arguments})


def sampling_options(verb: Callable) -> Callable:
    """Give a verb the options of sampling; it gets them as `sampling` and `limits`."""

    @functools.wraps(verb)
    def start(*args, sampler, temperature, top_k, top_p, max_new_tokens, stop, **keywords):
        sampling = choose(sampler, temperature, top_k, top_p)
        limits = {"max_new_tokens": max_new_tokens}
        if stop:
            limits["stop"] = list(stop)
        return verb(*args, sampling=sampling, limits=limits, **keywords)

    for option in reversed(
        (
            click.option(
                "--max-new-tokens",
                type=click.IntRange(0),
                default=256,
                show_default=True,
                metavar="N",
                help="Most tokens to add.",
            ),
            click.option(
                "--stop", multiple=True, metavar="TEXT", help="End before it; repeatable."
            ),
            click.option(
                "--sampler",
                type=click.Choice(list(CLASSES)),
                help="How a token is chosen.  [default: greedy]",
            ),
            click.option(
                "--temperature",
                type=click.FloatRange(0, 100),
                metavar="T",
                help="0 always takes the likeliest.",
            ),
            click.option(
                "--top-k",
                type=click.IntRange(1),
                metavar="K",
                help="Choose among the K likeliest.",
            ),
            click.option(
                "--top-p",
                type=click.FloatRange(0, 1, min_open=True),
                metavar="P",
                help="Among the likeliest of total P.",
            ),
        )
    ):
        start = option(start)
    return start
