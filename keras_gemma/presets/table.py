"""The table of `presets/README.md`, made from the cards.

python -m keras_gemma.presets.table          # writes it anew
"""

from keras_gemma.presets import registry
from keras_gemma.presets.cards import KINDS
from keras_gemma.presets.sizes import BYTES_PER_NUMBER

_HEAD = """\
# Presets

A preset is a model under a name. This page is made from the cards in this folder by
`python -m keras_gemma.presets.table`; change a card, then run that.

"""
_FOOT = """
Bundled presets come with the package, weights included. The others are known by size, source and
licence; `from_preset` of them arrives with a later release, and reads their folders already where
the weights are in one file.

## A card

One JSON file a preset: `NAME.json`, or `NAME/card.json` where the preset itself lies beside it (what
its other files say is taken from there). Fields: `description`, `family`, `kind` ({kinds}),
`backbone` and its `architecture` (arguments), `parameters`, `context_length` in tokens, `dtype` of
the stored weights, `sources` (handles), `licence` (`name`, `text`: its page, `accept_at`: where it is
accepted, for each source). A bundled preset also says how it was made: `training` with `corpus` (a
list of `title`, `licence`, `package`, `share`), `tokens_seen`, `held_out_bits_per_byte` (by text),
`date`, `command`; and what it can do: `skills` (`accuracy`, `questions`, `held_out`: whether the items
asked for were kept out of training).

## recipes/

One JSON file a training run, run by `keras-gemma train NAME`.
"""


def table() -> str:
    """The presets as a Markdown table."""
    rows = ["| preset | kind | parameters | context | size | licence | sources |"]
    rows.append("|---|---|---:|---:|---:|---|---|")
    for name in registry.names():
        card = registry.card(name)
        licence = card["licence"]
        cells = (
            f"`{name}`",
            card["kind"],
            f"{card['parameters']:,}",
            f"{card['context_length']:,}",
            megabytes(card["parameters"] * BYTES_PER_NUMBER[card["dtype"]]),
            f"[{licence['name']}]({licence['text']})",
            "bundled" if card["bundled"] else ", ".join(f"`{x}`" for x in card["sources"].values()),
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def page() -> str:
    """All of `presets/README.md`."""
    kinds = "; ".join(f"`{kind}`: {meaning}" for kind, meaning in KINDS.items())
    return _HEAD + table() + _FOOT.format(kinds=kinds)


def megabytes(count: int) -> str:
    """A number of bytes for people.

    >>> megabytes(5_012_344_832), megabytes(2_427_136)
    ('5.0 GB', '2.4 MB')
    """
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} B"


if __name__ == "__main__":
    (registry.root() / "README.md").write_text(page(), encoding="utf-8")
