"""Tokens per second of our tokenizer, beside `sentencepiece` called directly.

    python benchmarks/tokenizer_speed.py $(python tests/real_vocabularies.py gemma)

Both encode the same texts, by turns; of each the quickest of many rounds counts, since other programs
on the machine only ever add; and, less troubled by those, the processor's time of all threads. Ours
also keeps control tokens out. Writes
benchmarks/results/tokenizer_speed.json.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

import sentencepiece
from tiny_quality import ROOT, circumstances

sys.path.append(str(ROOT / "tests" / "text"))
from many_texts import many_texts

QUESTION = "What is the capital of France, and how many people live there?"
PROSE = (
    "Once upon a time there was a fox who lived in the forest. It was a cold and windy day, and "
    "nobody was about but a hare and 1234 ants. "
) * 20
CODE = (
    "def merge(left: list[int], right: list[int]) -> list[int]:\n    merged = []\n"
    "    while left and right:\n        source = left if left[0] < right[0] else right\n"
    "        merged.append(source.pop(0))\n    return merged + left + right\n\n"
) * 10
SCRIPTS = "日本語の文章です。 Ελληνικά κείμενα. Русский текст. नमस्ते दुनिया. 안녕하세요 😀 " * 20
MARKUP = "<table><tr><td><b>bold</b></td><td>1 < 2</td></tr></table>\n" * 10


def quickest(calls, rounds: int, at_once: int) -> list[tuple[float, float]]:
    """Seconds by the clock and of the processor for one call of each, in its quickest rounds."""
    clocks = time.perf_counter, time.process_time
    best = [[float("inf")] * len(clocks) for _ in calls]
    for _ in range(rounds):
        for call, least in zip(calls, best):
            began = [clock() for clock in clocks]
            for _ in range(at_once):
                call()
            for i, clock in enumerate(clocks):
                least[i] = min(least[i], (clock() - began[i]) / at_once)
    return [tuple(least) for least in best]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("vocabulary", type=Path, help="a SentencePiece model")
    parser.add_argument("--rounds", type=int, default=60)
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from keras_gemma.text import GemmaTokenizer

    ours = GemmaTokenizer(arguments.vocabulary)
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(arguments.vocabulary))
    singles = {
        "question": QUESTION,
        "prose": PROSE,
        "code": CODE,
        "scripts": SCRIPTS,
        "markup full of control names": MARKUP,
    }
    batches = {
        "questions": [f"{QUESTION} {number}" for number in range(5000)],
        "prose, code, scripts": [PROSE, CODE, SCRIPTS] * 200,
        "texts of all kinds": many_texts(10_000),
    }
    found = {}
    for name, text in singles.items():
        calls = lambda text=text: theirs.encode(text), lambda text=text: ours.encode(text)
        at_once = max(1, 20_000 // len(text))
        found[name] = row(quickest(calls, arguments.rounds * 3, at_once), len(theirs.encode(text)))
        print(name, found[name], flush=True)
    for name, texts in batches.items():
        calls = lambda b=texts: theirs.encode(b), lambda b=texts: ours.encode_batch(b)
        tokens = sum(map(len, theirs.encode(texts)))
        found[f"batch of {len(texts)}: {name}"] = row(quickest(calls, arguments.rounds, 1), tokens)
        print(name, found[f"batch of {len(texts)}: {name}"], flush=True)
    alone = {"num_threads": 1}
    pair = quickest(
        [
            lambda: theirs.encode(batches["questions"], **alone),
            lambda: theirs.encode(batches["questions"]),
        ],
        arguments.rounds,
        1,
    )
    written = {
        **circumstances(),
        "sentencepiece": sentencepiece.__version__,
        "vocabulary_size": ours.vocabulary_size(),
        "bar": "0.9 of theirs, markup aside; by processor time where others use the machine",
        "threads_of_sentencepiece_gain": round(pair[0][0] / pair[1][0], 2),
        "runs": found,
    }
    path = ROOT / "benchmarks" / "results" / "tokenizer_speed.json"
    path.write_text(json.dumps(written, indent=2) + "\n")


def row(seconds: list[tuple[float, float]], tokens: int) -> dict:
    """Tokens per second of both, and how they compare."""
    theirs, ours = seconds
    return {
        "tokens": tokens,
        "sentencepiece_tokens_per_second": round(tokens / theirs[0]),
        "ours_tokens_per_second": round(tokens / ours[0]),
        "ours_of_theirs": round(theirs[0] / ours[0], 3),
        "ours_of_theirs_by_processor_time": round(theirs[1] / ours[1], 3),
    }


if __name__ == "__main__":
    main()
