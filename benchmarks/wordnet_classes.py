"""What a definition is about: WordNet's 45 classes, by gemma_tiny_en and by words counted.

    KERAS_BACKEND=torch OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/wordnet_classes.py

A definition belongs to one of the 45 files that WordNet's lexicographers wrote. Both sides read the
same texts, definitions without their examples, and both settings are a first guess: nothing was
tuned. A tenth, chosen by the CRC32 of the text, is held out and looked at once. Needs the Debian
package wordnet-base, and scikit-learn; writes benchmarks/results/wordnet_classes.json.
"""

import argparse
import collections
import importlib.metadata
import json
import math
import time
from pathlib import Path

import numpy as np
from machine import origin, processor

from keras_gemma.data import wordnet
from keras_gemma.presets import registry

RESULT = Path(__file__).parent / "results" / "wordnet_classes.json"
HELD_OUT = 0  # of ten tenths
MODEL = {"preset": "gemma_tiny_en", "pooling_mode": "mean", "dropout": 0.1, "sequence_length": 64}
TRAINING = {"epochs": 1, "batch_size": 32, "learning_rate": 1e-3, "warmup": 0.05, "seed": 0}
COUNTS = {"ngram_range": (1, 2), "min_df": 2, "sublinear_tf": True}
REGRESSION = {"C": 8.0, "tol": 1e-3, "max_iter": 300}


def by_gemma(texts: list[str], labels: list[int], asked: list[str]) -> np.ndarray:
    """All of the model trained, with a new head."""
    import keras

    from keras_gemma import GemmaTextClassifier, optimizers

    keras.utils.set_random_seed(TRAINING["seed"])
    options = {name: MODEL[name] for name in ("pooling_mode", "dropout")}
    model = GemmaTextClassifier.from_preset(
        MODEL["preset"], num_classes=len(wordnet.CLASSES), dtype="float32", **options
    )
    model.preprocessor.sequence_length = MODEL["sequence_length"]
    steps = TRAINING["epochs"] * math.ceil(len(texts) / TRAINING["batch_size"])
    warmup = round(TRAINING["warmup"] * steps)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps - warmup, warmup_target=TRAINING["learning_rate"], warmup_steps=warmup
    )
    model.compile(optimizers.AdamW(rate, global_clipnorm=1.0))
    model.fit(texts, labels, TRAINING["batch_size"], TRAINING["epochs"], verbose=2)
    return model.predict(asked, batch_size=64, verbose=0).argmax(axis=1)


def by_counts(texts: list[str], labels: list[int], asked: list[str]) -> np.ndarray:
    """TF-IDF of words and pairs of words, and a logistic regression."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(TfidfVectorizer(**COUNTS), LogisticRegression(**REGRESSION))
    return model.fit(texts, labels).predict(asked)


def by_frequency(texts: list[str], labels: list[int], asked: list[str]) -> np.ndarray:
    """Always the most frequent class."""
    return np.full(len(asked), collections.Counter(labels).most_common(1)[0][0])


SIDES = {"gemma_tiny_en": by_gemma, "tf_idf": by_counts, "most_frequent": by_frequency}


def interval(right: int, total: int) -> list[float]:
    """What a share lies in with 95 % (Wilson).

    >>> [round(bound, 3) for bound in interval(90, 100)]
    [0.826, 0.945]
    """
    z, share = 1.959964, right / total
    middle = share + z**2 / (2 * total)
    reach = z * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    return [(middle + sign * reach) / (1 + z**2 / total) for sign in (-1, 1)]


def seen_in_pretraining(asked: list[str]) -> dict[str, int]:
    """How many of these texts stand in a text of WordNet that the preset was trained on.

    Its corpus took examples only, so these are definitions that are part of an example.
    """
    examples = "\n".join(wordnet.sentences()).lower()
    return {
        "definitions": sum(text.lower() in examples for text in asked),
        "definitions_of_5_words": sum(
            len(text.split()) >= 5 and text.lower() in examples for text in asked
        ),
        "class_names": sum(name in examples for name in wordnet.CLASSES),
    }


def measured(side: str, training: list, held_out: list) -> dict:
    """A side's held-out accuracy, and the processor's seconds for training and answers."""
    start = time.process_time()
    texts, labels = zip(*training)
    answers = SIDES[side](list(texts), list(labels), [one.text for one in held_out])
    right = int((answers == np.array([one.label for one in held_out])).sum())
    return {
        "right": right,
        "accuracy": right / len(held_out),
        "interval": interval(right, len(held_out)),
        "processor_seconds": round(time.process_time() - start),
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", nargs="*", choices=SIDES, default=list(SIDES))
    parser.add_argument("--every", type=int, help="of so many texts one, to try it; writes nothing")
    arguments = parser.parse_args()
    found = list(wordnet.definitions())[:: arguments.every]
    training = [one for one in found if one.tenth != HELD_OUT]
    held_out = [one for one in found if one.tenth == HELD_OUT]
    known = json.loads(RESULT.read_text("utf-8")) if RESULT.is_file() else {}
    sides = known.get("sides", {})
    for side in arguments.sides:
        sides[side] = measured(side, training, held_out)
        print(side, json.dumps(sides[side]), flush=True)
        if not arguments.every:
            RESULT.write_text(json.dumps(about(training, held_out, sides), indent=2) + "\n")


def about(training: list, held_out: list, sides: dict) -> dict:
    """All that the figures belong to."""
    import keras

    return {
        **origin(),
        "processor": processor(),
        "backend": keras.config.backend(),
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("keras", keras.config.backend(), "numpy", "scikit-learn")
        },
        "classes": len(wordnet.CLASSES),
        "training_texts": len(training),
        "held_out_texts": len(held_out),
        "model": {**MODEL, "parameters": registry.card(MODEL["preset"])["parameters"]},
        "training": TRAINING,
        "tf_idf": COUNTS,
        "regression": REGRESSION,
        "held_out_texts_seen_in_pretraining": seen_in_pretraining([one.text for one in held_out]),
        "sides": sides,
    }


if __name__ == "__main__":
    main()
