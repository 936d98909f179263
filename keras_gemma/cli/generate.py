"""`keras-gemma generate PROMPT`: continue a text."""

import contextlib
import sys
import time

import click

from keras_gemma.cli.common import (
    common,
    complete_preset,
    load_model,
    model_class,
    show_code,
    shown,
)
from keras_gemma.cli.sampling import sampling_options

EPILOG = """\
\b
Examples:
  keras-gemma generate "Once upon a time"
  keras-gemma generate "The king said" --temperature 0.7 --seed 3
  cat start.txt | keras-gemma generate - --stop "The end."
"""


@click.command(short_help="Continue a text.", epilog=EPILOG)
@click.argument("prompt")
@click.option(
    "--preset",
    default="gemma_tiny_en",
    show_default=True,
    shell_complete=complete_preset,
    help="A name that `keras-gemma presets` lists, or a preset folder.",
)
@sampling_options
@click.option("--strip-prompt", is_flag=True, help="Print the new text only.")
@click.option("--show-code", "code_only", is_flag=True, help="Print the Python that does this.")
@common()
def command(settings, prompt, preset, sampling, limits, strip_prompt, code_only):
    """Continue PROMPT, word by word as it comes. PROMPT - reads it from stdin."""
    prompt = sys.stdin.read() if prompt == "-" else prompt
    if settings.seed is not None:
        limits["seed"] = settings.seed
    if code_only:
        return show_code(settings, _code(prompt, preset, sampling, limits, strip_prompt))
    began = time.perf_counter()
    with settings.status(f"loading {preset}") as say:
        model = load_model(settings, preset)
        model.compile(sampler=sampling.build())
        say("compiling, once for each shape")
        pieces = model.stream(prompt, **limits)
        first = next(pieces, "")
    started = time.perf_counter()
    text = [first]
    if not settings.as_json:
        click.echo(shown("" if strip_prompt else prompt) + shown(first), nl=False)
    with contextlib.closing(pieces):
        for piece in pieces:
            text.append(piece)
            if not settings.as_json:
                click.echo(shown(piece), nl=False)
    if not settings.as_json:
        return click.echo()
    settings.print_json(
        {
            "preset": preset,
            "prompt": prompt,
            "text": "".join(text),
            "seed": settings.seed,
            "seconds_to_first_text": round(started - began, 3),
            "seconds": round(time.perf_counter() - began, 3),
        }
    )


def _code(prompt, preset, sampling, limits, strip_prompt):
    keywords = "".join(f", {name}={value!r}" for name, value in limits.items())
    echo = [] if strip_prompt else [f'print({prompt!r}, end="")']
    return [
        f"model = keras_gemma.models.{model_class(preset)}.from_preset({preset!r})",
        f"model.compile(sampler={sampling.code()})",
        *echo,
        f"for piece in model.stream({prompt!r}{keywords}):",
        '    print(piece, end="", flush=True)',
        "print()",
    ]
