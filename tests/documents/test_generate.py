"""The generated parts of the README, on cards and results made up for it."""

import json
import runpy
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[2]
CARD = {
    "description": "Made up.",
    "kind": "instruct",
    "parameters": 1_000_000,
    "dtype": "bfloat16",
    "training": {
        "corpus": [{"title": "Stories", "licence": "Apache-2.0", "package": "p", "share": 0.6}],
        "tokens_seen": 5_000_000,
        "held_out_bits_per_byte": {"a book": 1.5},
        "date": "2026-01-02",
        "command": "keras-gemma train made_up",
    },
    "stories": {"stories": 200, "temperature": 0.7, "whole": 0.99, "consistent": 0.9},
    "skills": {
        "count_words": {"accuracy": 0.5, "questions": 200, "held_out": True},
        "spell": {"accuracy": 1.0, "questions": 200, "held_out": False},
    },
}
RESULTS = {
    "bible": {"chapters": 7, "bits_per_byte": {"xz -9, alone": 2.5, "model": 1.5}},
    "stories": {"stories": 200, "samples": ["Once upon a time.\nThe end."]},
    "skills": {"outside": {"Why?": "I know\nthat not."}},
}


@pytest.fixture
def generate(monkeypatch, tmp_path):
    module = runpy.run_path(str(ROOT / "docs" / "generate.py"))
    space = module["bundled_models"].__globals__
    monkeypatch.setitem(space, "ROOT", tmp_path)
    monkeypatch.setattr(space["registry"], "names", lambda: ["made_up"])
    monkeypatch.setattr(space["registry"], "is_bundled", lambda name: True)
    monkeypatch.setattr(space["registry"], "card", lambda name: CARD)
    return module


def test_card_alone_is_enough(generate):
    text = generate["bundled_models"]()
    assert "1,000,000 parameters, 2.0 MB; saw 5,000,000 tokens" in text
    assert "Stories, 60% (Apache-2.0)" in text
    assert "1.500 on a book" in text
    assert "99.0% are whole" in text and "90.0% also mention no name" in text
    assert "mean of 2 skills 75.0%" in text
    assert text.index("| spell | 100.0% | no |") < text.index("| count words | 50.0% | yes |")


def test_results_add_rivals_an_example_and_a_foreign_question(generate, tmp_path):
    folder = tmp_path / "benchmarks" / "results"
    folder.mkdir(parents=True)
    (folder / "tiny_quality_made_up.json").write_text(json.dumps(RESULTS))
    text = generate["bundled_models"]()
    assert text.index("| **this model** | 1.500 |") < text.index("| xz -9, alone | 2.500 |")
    assert "> Once upon a time.\n> The end." in text
    assert "“Why?”, gets: “I know that not.”" in text


def test_only_what_stands_between_the_marks_changes(generate):
    page = "a\n<!-- begin bundled models -->\nold\n<!-- end bundled models -->\nb\n"
    new = generate["renewed"](page)
    assert new.startswith("a\n<!-- begin") and new.endswith("end bundled models -->\nb\n")
    assert "old" not in new and "made_up" in new
    assert generate["renewed"](new) == new
