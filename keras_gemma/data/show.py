"""What a model will be trained on, for the eye: rows with their turns and trained tokens."""

from collections.abc import Iterator
from itertools import groupby
from typing import IO, Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from keras_gemma.data.prepared_rows import PreparedRows, count_of
from keras_gemma.data.records import read

DOCUMENTS = 1000  # prepared to show some: enough to tell how long and how many are
OPEN, CLOSE = "⟦", "⟧"  # around what is trained on, so that it shows without colours, too
STYLES = {"trained": "bold green", "seen": "dim", "control": "cyan", "lost": "yellow"}


class Run(NamedTuple):
    """Neighbouring tokens of one document that the loss counts alike."""

    segment: int
    weight: float
    tokens: int
    text: str
    is_control: bool


def show(data: Any, model: Any, rows: int = 3, file: IO[str] | None = None) -> None:
    """Print the rows that `fit` would train on, and what of the data is cut or left out, and why.

    What the loss counts is green and stands in ⟦ ⟧ (with its weight, unless that is 1), what the
    model only reads is dim; `│2` begins the second document of a row.

        keras_gemma.data.show("talks.jsonl", model)

    Args:
        data: as for `read`: files, or rows in memory. Of many documents, the first 1,000 are taken.
        model: a `GemmaCausalLM`, or its preprocessor, whose `sequence_length`, `pack` and
            `too_long` say what rows look like.
        rows: how many to print.
        file: where to; the terminal unless told. Colours only go to terminals.

    Raises:
        ValueError: the model has no preprocessor.
        TypeError: the data are a stream; how to take some rows of it is said.
    """
    console = Console(file=file, highlight=False, soft_wrap=True)
    preprocessor = getattr(model, "preprocessor", model)
    if preprocessor is None:
        raise ValueError(
            "Rows are shown as a preprocessor makes them, and this model has none "
            "(preprocessor=None). Attach one, or give a GemmaCausalLMPreprocessor instead of it."
        )
    records = read(data)
    prepared = PreparedRows(records[:DOCUMENTS], preprocessor, records.skipped)
    if len(records) > DOCUMENTS:
        console.print(f"The first {DOCUMENTS:,} of {len(records):,} documents:")
    summary, *losses = str(prepared.report).split(". ", 1)
    console.print(f"{summary.rstrip('.')}.")
    for line in (*losses, *(f"  {why}" for why in (*records.examples, *prepared.report.examples))):
        console.print(Text(_visible(line), STYLES["lost"]))
    for number in range(min(rows, len(prepared))):
        runs = list(runs_of(prepared, number, preprocessor.tokenizer))
        _print_row(console, number, runs, prepared.report.row_length)


def runs_of(prepared: PreparedRows, number: int, tokenizer: Any) -> Iterator[Run]:
    """A row, cut where a document, a weight, or a control token begins."""
    token_ids, segments, _ = (part[0] for part in prepared.packed([number]))
    counts = np.append(0, prepared[[number]][2][0])  # weights of labels; the first token is none
    names = {index: name for name, index in tokenizer.control_tokens.items()}

    def kind(place):
        return segments[place], counts[place], int(token_ids[place]) in names

    for (segment, weight, is_control), places in groupby(range(segments.astype(bool).sum()), kind):
        ids = [int(token_ids[place]) for place in places]
        text = "".join(names[index] for index in ids) if is_control else tokenizer.detokenize(ids)
        yield Run(int(segment), float(weight), len(ids), text, is_control)


def _print_row(console, number, runs, length):
    tokens, documents = sum(run.tokens for run in runs), runs[-1].segment if runs else 0
    title = f"row {number}: {count_of(documents, 'document')}, {tokens - 1} of {length} tokens"
    console.print(Rule(title, align="left") if console.is_terminal else f"--- {title}")
    line = Text()
    for segment, parts in groupby(runs, lambda run: run.segment):
        line.append(f"│{segment} ")
        for weight, same in groupby(parts, lambda run: run.weight):
            factor = "" if weight in (0, 1) else f"{weight:g}× "
            line.append(f"{OPEN}{factor}" if weight else "", STYLES["trained"])
            for run in same:
                style = "trained" if weight else "control" if run.is_control else "seen"
                line.append(_visible(run.text), STYLES[style])
            line.append(CLOSE if weight else "", STYLES["trained"])
        line.rstrip()
        line.append("\n")
    console.print(line, end="")


def _visible(text):
    """Without what acts on a terminal: a text of others may hold its commands."""
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else f"\\x{ord(letter):02x}"
        for letter in text
    )
