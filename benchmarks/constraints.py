"""What a constraint costs: microseconds of each token, milliseconds before the first.

    python benchmarks/constraints.py $(python tests/real_vocabularies.py gemma)

For each constraint, two kinds of text: one that a model would write, in the tokenizer's own cut, and
any allowed tokens, which wander through more states than a model does. Timed is `allowed()` and
`accept()` together, as generation calls them; medians, since the first visit of a state costs more.
Writes benchmarks/results/constraints.json.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np
from tiny_quality import ROOT, circumstances

sys.path.append(str(ROOT / "tests" / "constraints"))
from walks import walk

PEOPLE = {
    "type": "object",
    "properties": {
        "people": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "maxLength": 40},
                    "age": {"type": "integer", "minimum": 0, "maximum": 120},
                    "email": {"type": "string", "pattern": r"^\w+@\w+\.(com|org)$"},
                    "kind": {"enum": ["friend", "colleague", "stranger"]},
                    "score": {"anyOf": [{"type": "number"}, {"type": "null"}]},
                    "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 5},
                },
                "required": ["name", "age", "email", "kind", "score", "tags"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["people"],
    "additionalProperties": False,
}
PERSON = {
    "name": "Ada Lovelace",
    "age": 36,
    "email": "ada@example.org",
    "kind": "friend",
    "score": 12.75,
    "tags": ["mathematics", "poetry", "größer"],
}
ANSWER = json.dumps({"people": [PERSON] * 8}, indent=2, ensure_ascii=False)
SUM = r"""
start: sum
sum: term (("+" | "-") term)*
term: factor ("*" factor)*
factor: NUMBER | "(" sum ")"
NUMBER: /[1-9][0-9]{0,8}/
%ignore / /
"""


def scenes():
    """Name to a constraint, made anew, and a text of it."""
    from keras_gemma.constraints import Choices, Grammar, JSONSchema, Regex

    cities = [f"the city of {name}{number}" for name in ("A", "Be", "Cor") for number in range(300)]
    return {
        "JSON schema": (lambda: JSONSchema(PEOPLE), ANSWER),
        "any JSON": (lambda: JSONSchema({}), ANSWER),
        "regular expression": (
            lambda: Regex(r"([A-Z][a-z]+ ?)+, \d{4}"),
            "Once Upon An Island, 1815",
        ),
        "any text": (lambda: Regex(r"(?s:.*)"), ANSWER),
        "grammar": (lambda: Grammar(SUM), "(12 + 345) * (6 - 7 * 89) + 10" + " + 234 * 5" * 20),
        "900 choices": (lambda: Choices(cities), cities[777]),
    }


def timed(matcher, ids) -> list[float]:
    """Seconds of `allowed()` and `accept()` of each token."""
    seconds = []
    for index in ids:
        began = time.perf_counter()
        matcher.allowed()
        matcher.accept(index)
        seconds.append(time.perf_counter() - began)
    return seconds


def milliseconds(call) -> tuple[float, object]:
    """How long a call took, and what it gave."""
    began = time.perf_counter()
    result = call()
    return round((time.perf_counter() - began) * 1e3, 2), result


def row(seconds: list[float]) -> dict:
    """Microseconds a token."""
    ordered = sorted(seconds)
    return {
        "tokens": len(ordered),
        "median": round(statistics.median(ordered) * 1e6, 1),
        "mean": round(statistics.fmean(ordered) * 1e6, 1),
        "of_100_the_slowest": round(ordered[int(len(ordered) * 0.99)] * 1e6, 1),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("vocabulary", type=Path, help="a SentencePiece model")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--walks", type=int, default=20)
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import llguidance

    from keras_gemma.constraints import Regex
    from keras_gemma.text import GemmaTokenizer

    tokenizer = GemmaTokenizer(arguments.vocabulary)
    first, _ = milliseconds(lambda: Regex("a").matcher(tokenizer))
    found = {}
    for name, (make, text) in scenes().items():
        making, constraint = milliseconds(make)
        compiling, _ = milliseconds(lambda c=constraint: c.matcher(tokenizer))
        again, _ = milliseconds(lambda c=constraint: c.matcher(tokenizer))
        ids = tokenizer.encode(text)
        own = [
            second
            for _ in range(arguments.rounds)
            for second in timed(constraint.matcher(tokenizer), ids)
        ]
        random, wandering = np.random.default_rng(0), []
        for _ in range(arguments.walks):
            path = walk(constraint.matcher(tokenizer), tokenizer, random)
            wandering += timed(constraint.matcher(tokenizer), path)
        found[name] = {
            "milliseconds_to_make": making,
            "milliseconds_to_first_matcher": compiling,
            "milliseconds_to_next_matcher": again,
            "microseconds_a_token_of_a_models_text": row(own),
            "microseconds_a_token_of_any_text": row(wandering),
        }
        print(name, json.dumps(found[name]), flush=True)
    written = {
        **circumstances(),
        "llguidance": llguidance.__version__,
        "vocabulary_size": tokenizer.vocabulary_size(),
        "milliseconds_for_the_vocabulary_once": first,
        "runs": found,
    }
    path = ROOT / "benchmarks" / "results" / "constraints.json"
    path.write_text(json.dumps(written, indent=2) + "\n")


if __name__ == "__main__":
    main()
