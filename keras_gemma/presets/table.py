"""The table of `presets/README.md`, made from the cards.

python -m keras_gemma.presets.table          # writes it anew
"""

from keras_gemma.presets import registry
from keras_gemma.presets.cards import KINDS
from keras_gemma.presets.sizes import BYTES_PER_NUMBER, megabytes

_HEAD = """\
# Presets

A preset is a model under a name. This page is made from the cards in this folder by
`python -m keras_gemma.presets.table`; change a card, then run that.

"""
_FOOT = """
Bundled presets come with the package, weights included. The others are fetched when they are asked
for, or by `keras-gemma download NAME`, once their licence is accepted at one of their sources. The
repository of a source on the Hugging Face hub is another name of the preset: `google/gemma-2b` and
`hf://google/gemma-2b` find the card of `gemma_2b_en`.

## A card

One JSON file a preset: `NAME.json`, or `NAME/card.json` where the preset itself lies beside it (what
its other files say is taken from there). Fields: `description`, `family`, `kind` ({kinds}),
`backbone` and its `architecture` (arguments), `parameters`, `context_length` in tokens, `dtype` of
the stored weights, `sources` (handles), `licence` (`name`, `text`: its page, `accept_at`: where it is
accepted, for each source). Two more are recorded where there is a network, and absent until then:
`checksums` (by source and file, `sha256` and `size`) and `golden_logits`. A bundled preset also says how it was made: `training` with `corpus` (a
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


if __name__ == "__main__":
    (registry.root() / "README.md").write_text(page(), encoding="utf-8")
