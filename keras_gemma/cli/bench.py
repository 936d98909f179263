"""`keras-gemma bench [PRESET]`: how fast a model is on this machine."""

import sys
import time

import click

from keras_gemma.cli.common import common, complete_preset, load_model
from keras_gemma.presets.table import megabytes

EPILOG = """\
\b
Examples:
  keras-gemma bench
  keras-gemma bench gemma_2b_en --dtype bfloat16
  keras-gemma bench --rows 8 --prompt-tokens 32 --json
"""

QUANTIZED = ("int8", "int4")
ENOUGH = 20.0  # seconds of calls, after which none is repeated
REPEATS = 3


@click.command(short_help="Measure a model on this machine.", epilog=EPILOG)
@click.argument("preset", default="gemma_tiny_en", shell_complete=complete_preset)
@click.option("--prompt-tokens", type=click.IntRange(1), default=128, show_default=True)
@click.option("--new-tokens", type=click.IntRange(2), default=64, show_default=True)
@click.option("--rows", type=click.IntRange(1), default=1, show_default=True, help="Texts at once.")
@click.option(
    "--dtype",
    type=click.Choice(("float32", "bfloat16", "float16", *QUANTIZED)),
    default="float32",
    show_default=True,
    help="Of the weights.",
)
@common(seed=False)
def command(settings, preset, prompt_tokens, new_tokens, rows, dtype):
    """Time to load PRESET (gemma_tiny_en if left out), to its first token, and for each one after.

    Prompts are random, decoding is greedy, and seconds are those of the clock on the wall: other
    work on the machine is in them.
    """
    with settings.status(f"loading {preset}") as say:
        began = time.perf_counter()
        model = load_model(settings, preset, dtype="float32" if dtype in QUANTIZED else dtype)
        if dtype in QUANTIZED:
            model.quantize(dtype)
        loaded = time.perf_counter() - began
        say("measuring")
        facts = {
            "preset": preset,
            **circumstances(model),
            "dtype": dtype,
            "rows": rows,
            "prompt_tokens": prompt_tokens,
            "new_tokens": new_tokens,
            "load_seconds": loaded,
            **measured(model, rows, prompt_tokens, new_tokens),
            "peak_memory_bytes": peak_memory(),
        }
    if settings.as_json:
        return settings.print_json(facts)
    show(facts)


def circumstances(model) -> dict:
    """Where it runs, and by what."""
    import keras

    from keras_gemma.generation import kernels

    return {
        "backend": keras.config.backend(),
        "kernels": kernels.found().told,
        "parameters": model.count_params(),
    }


def measured(model, rows: int, prompt: int, count: int, clock=time.perf_counter) -> dict:
    """Seconds and rates; those of calls that are compiled are the best of some."""
    import numpy as np

    random = np.random.default_rng(0)
    vocabulary = model.backbone.config.vocabulary_size

    def seconds(new):
        # Other prompts each time: what a model remembers of one is not to be measured.
        ids = random.integers(vocabulary // 2, vocabulary, (rows, prompt), "int32")
        inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
        began = clock()
        model.generate(inputs, max_length=prompt + new, stop_token_ids=None)
        return clock() - began

    began = clock()
    cold = seconds(count)
    seconds(1)
    few, many = [], []
    while len(few) < REPEATS and (not few or clock() - began < ENOUGH):
        few.append(seconds(1))
        many.append(seconds(count))
    first, rest = min(few), min(many) - min(few)
    return {
        "first_call_seconds": cold,
        "first_token_seconds": first,
        "prompt_tokens_per_second": rows * prompt / first,
        # A difference of two noisy times may be anything where both are short.
        "decode_tokens_per_second": rows * (count - 1) / rest if rest > 0 else None,
    }


def peak_memory() -> int | None:
    """Bytes that the process took at the most; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def show(facts: dict) -> None:
    """The facts as a table."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    def rate(value):
        return "too short to tell" if value is None else f"{value:,.1f} tokens/s"

    def duration(value):
        return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.1f} ms"

    peak = facts["peak_memory_bytes"]
    rows = {
        "load": duration(facts["load_seconds"]),
        "first call, compiling": duration(facts["first_call_seconds"]),
        "first token": duration(facts["first_token_seconds"]),
        "prompt": rate(facts["prompt_tokens_per_second"]),
        "decode": rate(facts["decode_tokens_per_second"]),
        "peak memory of the process": "unknown" if peak is None else megabytes(peak),
        "kernels": facts["kernels"],
    }
    texts = "a prompt" if facts["rows"] == 1 else f"{facts['rows']} prompts"
    click.echo(
        f"{facts['preset']} on {facts['backend']}, {facts['dtype']}: {texts} of "
        f"{facts['prompt_tokens']} tokens, {facts['new_tokens']} new ones"
    )
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in rows.items():
        table.add_row(name, value)
    Console().print(table)
