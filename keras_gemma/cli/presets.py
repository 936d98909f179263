"""`keras-gemma presets`: what models there are."""

import click

from keras_gemma.cli.common import common
from keras_gemma.presets.sizes import BYTES_PER_NUMBER
from keras_gemma.presets.table import megabytes

EPILOG = """\
\b
Examples:
  keras-gemma presets
  keras-gemma presets --json
"""


@click.command(short_help="List the models there are.", epilog=EPILOG)
@common(seed=False)
def command(settings):
    """List the presets: kind, parameters, licence, and where they come from."""
    from keras_gemma.presets import registry

    cards = {name: registry.card(name) for name in registry.names()}
    if settings.as_json:
        return settings.print_json(cards)
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("preset", no_wrap=True)
    table.add_column("kind")
    for heading in ("parameters", "size", "context"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("licence", no_wrap=True)
    table.add_column("from", no_wrap=True)
    for name, card in cards.items():
        table.add_row(
            name,
            card["kind"],
            short(card["parameters"]),
            megabytes(card["parameters"] * BYTES_PER_NUMBER[card["dtype"]]),
            f"{card['context_length']:,}",
            card["licence"]["name"],
            "bundled" if card["bundled"] else ", ".join(card["sources"]),
        )
    console = Console()
    if not console.is_terminal:
        console.width = 140  # a pipe has no width to keep to
    console.print(table)
    settings.note("keras-gemma info PRESET tells more; keras-gemma download PRESET fetches it.")


def short(count: int) -> str:
    """A number of parameters for people.

    >>> short(2_506_172_416), short(1_213_568)
    ('2.51 B', '1.21 M')
    """
    return f"{count / 1e9:.2f} B" if count >= 1e9 else f"{count / 1e6:.2f} M"
