"""The fenced blocks of Markdown files, and whether what they need is here."""

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from keras_gemma.presets import registry

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "presets" / "README.md"]
    + list((ROOT / "docs").rglob("*.md"))
)
BUNDLED = ("gemma_tiny_en", "gemma_instruct_tiny_en")


class Block(NamedTuple):
    """A fenced block: its language, the line that it begins at, and its text."""

    language: str
    line: int
    text: str


def blocks(path: Path, language: str) -> list[Block]:
    """The blocks of one language in a Markdown file."""
    text = path.read_text(encoding="utf-8")
    found = re.finditer(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    every = [Block(m[1], text.count("\n", 0, m.start()) + 2, m[2]) for m in found]
    return [block for block in every if block.language == language]


def need_presets(text: str) -> None:
    """Skip the test if `text` names a bundled preset that has no weights yet."""
    for name in BUNDLED:
        if re.search(rf"\b{name}\b", text) and not is_here(name):
            pytest.skip(f"the bundled preset {name} has no weights yet")


def is_here(name: str) -> bool:
    """Whether the weights of a bundled preset are in the repository."""
    return (registry.root() / name / "model.weights.h5").is_file()
