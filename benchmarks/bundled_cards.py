"""Write the cards of the bundled presets from their recipes and from what was measured.

    python benchmarks/bundled_cards.py

reads presets/recipes/NAME.json, benchmarks/results/training_NAME.json (the `measured.json` of the
run) and benchmarks/results/tiny_quality_NAME.json; writes presets/NAME/card.json.
"""

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SOURCES = {
    "stories": ("Short stories from the project's own grammar", "Apache-2.0", "keras-gemma"),
    "skills": ("Questions with exact answers, the project's own", "Apache-2.0", "keras-gemma"),
    "bible": (
        "World English Bible, chapters not held out",
        "public domain",
        "sword-text-web 426.0-1 (Debian), read with pysword 0.2.8 (PyPI)",
    ),
    "wordnet": (
        "Example sentences of WordNet 3.0, filtered",
        "WordNet 3.0 licence",
        "wordnet-base 1:3.0-37 (Debian)",
    ),
}
KINDS = {"gemma_tiny_en": "base", "gemma_instruct_tiny_en": "instruct"}


def card(name: str) -> dict:
    """The card of one bundled preset."""
    recipe = json.loads((ROOT / "presets" / "recipes" / f"{name}.json").read_text())
    run = json.loads((RESULTS / f"training_{name}.json").read_text())
    quality = json.loads((RESULTS / f"tiny_quality_{name}.json").read_text())
    bible = quality.get("bible", {}).get("bits_per_byte", {})
    made = {
        "description": recipe["description"],
        "family": "Gemma",
        "kind": KINDS[name],
        "context_length": recipe["row_length"] - 1,
        "sources": {},
        "licence": {
            "name": "Apache-2.0",
            "text": "https://www.apache.org/licenses/LICENSE-2.0",
            "accept_at": {},
        },
        "training": {
            "corpus": [
                dict(zip(("title", "licence", "package"), SOURCES[entry["source"]]))
                | {"share": entry["share"]}
                for entry in recipe["corpus"]
            ],
            "tokens_seen": run["tokens_seen"],
            "held_out_bits_per_byte": {"World English Bible": bible["model"]} if bible else {},
            "date": run["date"],
            "command": f"keras-gemma train {name}",
        },
    }
    if "skills" in quality:
        made["skills"] = {
            skill: {key: row[key] for key in ("accuracy", "questions", "held_out")}
            for skill, row in quality["skills"]["skills"].items()
        }
    if "stories" in quality:
        keys = ("stories", "temperature", "whole", "consistent")
        made["stories"] = {key: quality["stories"][key] for key in keys}
    return made


if __name__ == "__main__":
    for name in KINDS:
        path = ROOT / "presets" / name / "card.json"
        path.write_text(json.dumps(card(name), indent=2) + "\n")
        print(path.relative_to(ROOT))
