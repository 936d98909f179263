"""What the bundled models can do: bits per byte, stories that keep track, skills.

    python benchmarks/tiny_quality.py gemma_tiny_en --parts bible stories
    python benchmarks/tiny_quality.py gemma_instruct_tiny_en --parts skills

Writes benchmarks/results/tiny_quality_NAME.json. The Bible text comes from the packages that the
recipe names; parts that need no text do without them.
"""

import argparse
import json
import lzma
import math
import os
import platform
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
from ngram import KneserNey

ROOT = Path(__file__).resolve().parents[1]
ROW, STRIDE = 256, 128  # the models were trained on rows of 256; half of each window is context
OUTSIDE = (
    "Who painted this picture?",
    "Can you swim?",
    "What should I wear today?",
    "How far away is the sun?",
    "Do you have a brother?",
    "Please sing a song for me.",
    "Why do cats sleep so much?",
    "What is your name?",
)


def bible_parts() -> tuple[list[str], list[str]]:
    """Chapters trained on, and chapters held out."""
    from keras_gemma.data import bible

    chapters = list(bible.chapters())
    parts = ([], [])
    for chapter in chapters:
        parts[chapter.held_out].append(chapter.text)
    return parts


def windows(ids: list[int], start: int) -> list[tuple[list[int], int]]:
    """Rows after `<bos>` and how many of their last tokens count: every token counts once.

    >>> windows([5, 6, 7], start=2)
    [([2, 5, 6, 7], 3)]
    """
    rows, done = [], 0
    while done < len(ids):
        end = min(done + (ROW if done == 0 else STRIDE), len(ids))
        first = max(0, end - ROW)
        rows.append(([start, *ids[first:end]], end - done))
        done = end
    return rows


def model_bits(model, texts: list[str], rows_at_once: int = 32) -> float:
    """Bits the model needs for texts; each token is scored after at least 128 others, or all."""
    tokenizer = model.preprocessor.tokenizer
    rows = [
        row
        for text in texts
        for row in windows(list(tokenizer.encode(text)), tokenizer.start_token_id)
    ]
    nats = 0.0
    for at in range(0, len(rows), rows_at_once):
        chosen = rows[at : at + rows_at_once]
        ids = np.zeros((rows_at_once, ROW + 1), "int32")
        mask, counts = np.zeros_like(ids), np.zeros(ids.shape, "float64")
        for place, (row, fresh) in enumerate(chosen):
            ids[place, : len(row)], mask[place, : len(row)] = row, 1
            counts[place, len(row) - 1 - fresh : len(row) - 1] = 1
        losses = model.score(ids, mask, "loss", target_ids=np.roll(ids, -1, axis=1))
        from keras import ops

        nats += float((ops.convert_to_numpy(losses).astype("float64") * counts).sum())
    return nats / math.log(2)


def xz(text: str) -> int:
    """Bytes of `xz -9e`; its window of 64 MiB holds all of the text."""
    return len(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))


def whole_training_text(recipe: dict, tokenizer) -> list[str]:
    """Every document of a recipe once, up to the share of the tokens that its source has.

    Repeats are left out: they would teach a counting model nothing, and spoil its discounts.
    """
    from keras_gemma.data import corpus

    sources, texts = corpus.documents(recipe), []
    for entry in recipe["corpus"]:
        budget, seen = entry["share"] * recipe["tokens"], set()
        for document in sources[entry["source"]]:
            if not isinstance(document, str):
                document = "\n".join(message["content"] for message in document)
            # Texts that are read come again in another order; made ones may be alike by chance.
            if budget <= 0 or (entry["source"] in ("bible", "wordnet") and document in seen):
                break
            seen.add(document)
            texts.append(document)
            budget -= len(tokenizer.encode(document))
    return texts


def bible(model, recipe: dict | None) -> dict:
    """Bits per byte of held-out chapters: of the model, xz and 5-grams."""
    training, held_out = bible_parts()
    size = sum(len(text.encode()) for text in held_out)
    tokenizer = model.preprocessor.tokenizer
    known, new = "\n".join(training), "\n".join(held_out)
    found = {"chapters": len(held_out), "bytes": size}
    bits = {
        "model": model_bits(model, held_out),
        "xz -9, alone": 8 * xz(new),
        "xz -9, after the training chapters": 8 * (xz(known + "\n" + new) - xz(known)),
    }
    collections = {"Bible": training}
    if recipe:
        collections["all training text"] = whole_training_text(recipe, tokenizer)
    for name, texts in collections.items():
        for kind, encode, symbols in (
            ("bytes", lambda text: np.frombuffer(text.encode(), "uint8"), 256),
            ("tokens", tokenizer.encode, tokenizer.vocabulary_size()),
        ):
            counted = KneserNey([encode(text) for text in texts], order=5, size=symbols)
            bits[f"5-gram of {kind}, {name}"] = sum(counted.bits(encode(t)) for t in held_out)
    found["bits_per_byte"] = {name: round(value / size, 4) for name, value in bits.items()}
    return found


def stories(model, count: int, seed: int = 7, rows_at_once: int = 50) -> dict:
    """Sampled stories, and the share that is whole and speaks of nothing unintroduced."""
    from keras_gemma.data.entities import entities
    from keras_gemma.samplers import RandomSampler

    model.compile(sampler=RandomSampler(temperature=0.7))
    texts = []
    for at in range(0, count, rows_at_once):
        prompts = ["Once upon a time"] * min(rows_at_once, count - at)
        texts += model.generate(prompts, max_new_tokens=250, seed=seed + at)
    judged = [entities(text) for text in texts]
    strangers = [stranger for told in judged for stranger in told.strangers]
    return {
        "stories": count,
        "temperature": 0.7,
        "different": len(set(texts)),
        "whole": round(sum(told.whole for told in judged) / count, 4),
        "consistent": round(sum(told.whole and told.consistent for told in judged) / count, 4),
        "strangers": Counter(strangers).most_common(20),
        "samples": texts[:10],
    }


def skills(model, count: int, seed: int = 7, rows_at_once: int = 50) -> dict:
    """Exact answers per skill; of those in COMBINED the items were never trained on."""
    from keras_gemma.data.skills import COMBINED, SKILLS, questions

    found = {}
    for skill in SKILLS:
        asked = questions(skill, seed, count, held_out=True)
        replies = answers(model, [question.question for question in asked], rows_at_once)
        right = [reply == question.answer for reply, question in zip(replies, asked)]
        wrong = [
            f"{question.question} -> {reply}"
            for question, reply, good in zip(asked, replies, right)
            if not good
        ]
        found[skill] = {
            "accuracy": round(sum(right) / count, 4),
            "questions": count,
            "held_out": skill in COMBINED,
            "wrong": wrong[:3],
        }
    mean = sum(row["accuracy"] for row in found.values()) / len(found)
    outside = dict(zip(OUTSIDE, answers(model, list(OUTSIDE), rows_at_once)))
    return {"mean": round(mean, 4), "skills": found, "outside": outside}


def answers(model, asked: list[str], rows_at_once: int) -> list[str]:
    """Greedy replies, each to one question in a conversation of its own."""
    model.compile(sampler="greedy")
    turn = "<start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n"
    replies = []
    for at in range(0, len(asked), rows_at_once):
        prompts = [turn.format(question) for question in asked[at : at + rows_at_once]]
        replies += model.generate(prompts, max_new_tokens=48, strip_prompt=True)
    return [reply.split("<end_of_turn>")[0] for reply in replies]


def circumstances() -> dict:
    """Commit, machine and versions: what a figure belongs to."""
    import keras

    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    return {
        "commit": commit.stdout.strip(),
        "date": time.strftime("%Y-%m-%d"),
        "device": f"{platform.machine()}, {os.cpu_count()} cores",
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("preset", help="a preset's name, or its folder")
    parser.add_argument("--parts", nargs="+", default=["bible", "stories", "skills"])
    parser.add_argument("--count", type=int, default=200, help="stories, and questions per skill")
    parser.add_argument("--recipe", default="gemma_tiny_en", help="whose text the 5-grams count")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    chosen = parser.parse_args()

    # A checkout needs no installation to be measured.
    sys.path.insert(0, str(ROOT))
    from keras_gemma import GemmaCausalLM
    from keras_gemma.presets import registry

    model = GemmaCausalLM.from_preset(chosen.preset)
    name = Path(chosen.preset).name
    found = {"preset": name, "parameters": model.count_params(), **circumstances()}
    measures = {
        "bible": lambda: bible(model, registry.recipe(chosen.recipe)),
        "stories": lambda: stories(model, chosen.count),
        "skills": lambda: skills(model, chosen.count),
    }
    for part in chosen.parts:
        begun = time.perf_counter()
        found[part] = measures[part]()
        found[part]["seconds"] = round(time.perf_counter() - begun, 1)
        print(part, json.dumps(found[part], indent=2, ensure_ascii=False), flush=True)
    chosen.out.mkdir(parents=True, exist_ok=True)
    path = chosen.out / f"tiny_quality_{name}.json"
    # What was measured before in other parts stays.
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**before, **found}, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
