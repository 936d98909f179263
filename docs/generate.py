"""Writes the generated parts of README.md and of pages in docs/, and all of presets/README.md.

They come from the presets' cards, from what `benchmarks/tiny_quality.py` measured of the bundled models
(`benchmarks/results/tiny_quality_NAME.json`, where there is one), and from what `benchmarks/generation.py`,
`training.py`, `new_skill.py` and `wordnet_classes.py` measured (`benchmarks/results/generation_*.json`, …).

python docs/generate.py            # write
python docs/generate.py --check    # exit 1 if something would change

A part stands between `<!-- begin NAME -->` and `<!-- end NAME -->`.
"""

import json
import re
import sys
from pathlib import Path

from keras_gemma.presets import registry
from keras_gemma.presets.sizes import BYTES_PER_NUMBER
from keras_gemma.presets.table import megabytes, page

sys.path.insert(0, str(Path(__file__).parent))

import speed_tables
import training_tables

ROOT = Path(__file__).resolve().parents[1]
NONE_YET = "_No preset is bundled in this state of the repository._"


def bundled_models() -> str:
    """What the bundled models are and how well they do, as their cards say."""
    cards = {name: registry.card(name) for name in registry.names() if registry.is_bundled(name)}
    cards = dict(sorted(cards.items(), key=lambda item: item[1]["kind"]))  # "base" comes first
    if not cards:
        return NONE_YET
    parts = []
    for name, card in cards.items():
        training = card["training"]
        size = megabytes(card["parameters"] * BYTES_PER_NUMBER[card["dtype"]])
        corpus = "; ".join(
            f"{part['title']}, {part['share']:.0%} ({part['licence']})"
            for part in training["corpus"]
        )
        losses = "; ".join(
            f"{loss:.3f} on {text}" for text, loss in training["held_out_bits_per_byte"].items()
        )
        made = (
            f"saw {training['tokens_seen']:,} tokens ({training['date']}); `{training['command']}`"
        )
        lines = [
            f"**`{name}`** {card['description']}",
            "",
            f"- {card['parameters']:,} parameters, {size}; {made}",
            f"- Trained on: {corpus}.",
        ]
        if losses:
            lines.append(f"- Held-out loss in bits per byte: {losses}.")
        if told := card.get("stories"):
            lines.append(
                f"- Of {told['stories']} stories sampled at temperature {told['temperature']}, "
                f"{told['whole']:.1%} are whole (80 words, two names and two objects), and "
                f"{told['consistent']:.1%} also mention no name or object that was not introduced "
                "before."
            )
        lines += _measured(name)
        if skills := card.get("skills"):
            lines += ["", *_skills(skills)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _measured(name):
    """What stands in the results only: rivals, an example, an answer to a foreign question."""
    path = ROOT / "benchmarks" / "results" / f"tiny_quality_{name}.json"
    if not path.is_file():
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    if bible := found.get("bible"):
        bits = sorted(bible["bits_per_byte"].items(), key=lambda item: item[1])
        yield ""
        yield f"Bits per byte on the {bible['chapters']} Bible chapters that were held out:"
        yield ""
        yield "| | bits per byte |"
        yield "|---|---:|"
        for who, value in bits:
            yield f"| {'**this model**' if who == 'model' else who} | {value:.3f} |"
    if samples := found.get("stories", {}).get("samples"):
        yield ""
        yield f"The first of those {found['stories']['stories']} stories, unchosen:"
        yield ""
        yield from (f"> {line}".rstrip() for line in samples[0].splitlines())
    if outside := found.get("skills", {}).get("outside"):
        question, answer = next(iter(outside.items()))
        yield ""
        yield f"A question outside its skills, “{question}”, gets: “{' '.join(answer.split())}”"


def _skills(skills):
    questions = {skill["questions"] for skill in skills.values()}
    mean = sum(skill["accuracy"] for skill in skills.values()) / len(skills)
    yield (
        f"Whole answer exactly right, {'/'.join(map(str, sorted(questions)))} questions per skill; "
        f"mean of {len(skills)} skills {mean:.1%}:"
    )
    yield ""
    yield "| skill | right | items asked for were kept out of training |"
    yield "|---|---:|---|"
    for name, skill in sorted(skills.items(), key=lambda item: -item[1]["accuracy"]):
        held_out = "yes" if skill["held_out"] else "no"
        yield f"| {name.replace('_', ' ')} | {skill['accuracy']:.1%} | {held_out} |"


def presets() -> str:
    """All presets, briefly."""
    rows = [
        "| preset | kind | parameters | size | licence | weights |",
        "|---|---|---:|---:|---|---|",
    ]
    for name in registry.names():
        card = registry.card(name)
        cells = (
            f"`{name}`",
            card["kind"],
            f"{card['parameters']:,}",
            megabytes(card["parameters"] * BYTES_PER_NUMBER[card["dtype"]]),
            card["licence"]["name"],
            "bundled" if card["bundled"] else ", ".join(f"`{x}`" for x in card["sources"].values()),
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def speed() -> str:
    """The best of each library on one core."""
    return speed_tables.short(ROOT / "benchmarks" / "results")


def benchmarks() -> str:
    """Every figure."""
    return speed_tables.full(ROOT / "benchmarks" / "results")


def gpus() -> str:
    """Every figure of a GPU."""
    return speed_tables.on_gpus(ROOT / "benchmarks" / "results")


def wordnet_classes() -> str:
    """What `benchmarks/wordnet_classes.py` measured."""
    path = ROOT / "benchmarks" / "results" / "wordnet_classes.json"
    if not path.is_file():
        return speed_tables.NONE_YET
    found = json.loads(path.read_text(encoding="utf-8"))
    model, training, seen = (
        found[key] for key in ("model", "training", "held_out_texts_seen_in_pretraining")
    )
    titles = {
        "gemma_tiny_en": f"`{model['preset']}`, all {model['parameters']:,} parameters fine-tuned "
        f"({training['epochs']} epoch, AdamW at {training['learning_rate']}, batches of "
        f"{training['batch_size']})",
        "tf_idf": "TF-IDF of words and pairs of words, logistic regression",
        "most_frequent": "always the most frequent class",
    }
    lines = ["| | held-out accuracy | 95 % interval | processor's time |", "|---|---:|---|---:|"]
    sides = sorted(found["sides"].items(), key=lambda item: -item[1]["accuracy"])
    for name, side in sides:
        low, high = side["interval"]
        lines.append(
            f"| {titles[name]} | {side['accuracy']:.1%} | {low:.1%} to {high:.1%} | "
            f"{side['processor_seconds']:,} s |"
        )
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    lines.append("")
    lines.append(
        f"{found['training_texts']:,} definitions to train on, {found['held_out_texts']:,} held out; "
        f"one run each, one core, nothing tuned. {found['processor']['name']}, {found['date']}, "
        f"{versions}."
    )
    lines.append("")
    lines.append(
        "What the model may have known before: it was trained on WordNet's example sentences, those "
        "of held-out sets among them, but on no definition, and on "
        f"{seen['class_names'] or 'none'} of the class names. Of the held-out definitions "
        f"{seen['definitions']} stand word for word inside some example, "
        f"{seen['definitions_of_5_words']} of them with five words or more."
    )
    return "\n".join(lines)


def training() -> str:
    """Every figure of training."""
    return training_tables.steps(ROOT / "benchmarks" / "results")


def new_skills() -> str:
    """What fine-tuning taught."""
    return training_tables.new_skills(ROOT / "benchmarks" / "results")


def recipes() -> str:
    """The recipes for people's own data."""
    lines = [
        "| recipe | what | starts from | a step | memory, estimated | for |",
        "|---|---|---|---:|---:|---|",
    ]
    for name in registry.recipes():
        recipe = registry.recipe(name)
        if "data" in recipe:
            needs = recipe["needs"]
            rows = recipe["batch_size"] * recipe.get("accumulate", 1)
            cells = (
                f"`{name}`",
                recipe["description"].rstrip("."),
                f"`{recipe['start']}`",
                f"{rows} x {recipe['row_length']:,}",
                f"{needs['estimated_gb']} GB",
                needs["of"],
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


PARTS = {
    "bundled models": bundled_models,
    "presets": presets,
    "speed": speed,
    "benchmarks": benchmarks,
    "gpus": gpus,
    "wordnet classes": wordnet_classes,
    "training": training,
    "new skills": new_skills,
    "recipes": recipes,
}


def renewed(text: str) -> str:
    """`text` with its generated parts made anew."""

    def part(match):
        begin, name, end = match.groups()
        return f"{begin}\n{PARTS[name]()}\n{end}"

    return re.sub(r"(<!-- begin ([\w ]+) -->).*?(<!-- end \2 -->)", part, text, flags=re.DOTALL)


def outdated() -> dict[Path, str]:
    """Files that are not what cards and results say, with what they should be."""
    names = "benchmarks", "fine_tuning", "text_heads"
    pages = [ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in names)]
    wanted = {path: renewed(path.read_text(encoding="utf-8")) for path in pages}
    wanted[ROOT / "presets" / "README.md"] = page()
    return {p: text for p, text in wanted.items() if p.read_text(encoding="utf-8") != text}


def main() -> int:
    """Write, or with `--check` only tell."""
    for path, text in (stale := outdated()).items():
        if "--check" in sys.argv:
            print(f"{path.relative_to(ROOT)} is not what it should be: python docs/generate.py")
        else:
            path.write_text(text, encoding="utf-8")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
