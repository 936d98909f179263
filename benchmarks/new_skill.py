"""What fine-tuning teaches: a small model learns a new skill by LoRA, and keeps its old ones.

    python benchmarks/new_skill.py --keep
    python benchmarks/new_skill.py --old 0 --questions 100     # from new examples alone

`gemma_instruct_tiny_en` answers questions of 19 skills; to say words in reverse order is not one of them. It is
trained on 2,000 examples of that, with a share of old ones among them, and asked questions of all skills
before and after, those of lists and numbers in combinations that were never trained on. An answer is right if it is so to
the letter. `--keep` writes benchmarks/results/new_skill_NAME.json.
"""

import argparse
import json
import math
import random
import sys
import time
import zlib
from pathlib import Path

from tiny_quality import answers, circumstances

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # a checkout needs no installation to be measured

from keras_gemma.data.skills import COMBINED, ITEMS, SKILLS, Question, questions

NEW = "reverse words"
ROW = 48  # tokens; the longest example has 45


def new_questions(seed: int, count: int, held_out: bool) -> list[Question]:
    """Questions of the new skill; words are drawn from those that the model knows from lists.

    >>> new_questions(seed=1, count=1, held_out=True)[0].question.startswith("Say these words backwards: ")
    True
    """
    draw, made = random.Random(f"{NEW} {seed}"), []
    while len(made) < count:
        words = draw.sample(ITEMS, draw.randint(2, 4))
        if (zlib.crc32(" ".join(words).encode()) % 5 == 0) == held_out:
            asked = f"Say these words backwards: {' '.join(words)}."
            made.append(Question(NEW, asked, " ".join(reversed(words))))
    return made


def examples(count: int, old: float, seed: int) -> list[dict]:
    """Conversations of one question: new ones, and old ones that are a share of all."""
    made = new_questions(seed, count, held_out=False)
    draw = random.Random(f"examples {seed}")
    for number in range(round(count * old / (1 - old))):
        skill = draw.choice(sorted(SKILLS))
        made += questions(skill, seed=10_000 + number, count=1, held_out=False)
    draw.shuffle(made)
    return [
        {
            "messages": [
                {"role": "user", "content": asked.question},
                {"role": "model", "content": asked.answer},
            ]
        }
        for asked in made
    ]


def wilson(right: int, asked: int, z: float = 1.96) -> tuple[float, float]:
    """Bounds of a share with 95 % confidence (Wilson 1927).

    >>> [round(bound, 3) for bound in wilson(90, 100)]
    [0.826, 0.945]
    """
    share, spread = right / asked, z * z / asked
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * (share * (1 - share) / asked + spread / (4 * asked)) ** 0.5
    return middle - half, middle + half


def accuracies(model, count: int, seed: int = 7) -> dict[str, dict]:
    """Of each skill, how many held-out questions are answered to the letter."""
    found = {}
    for skill in (NEW, *SKILLS):
        if skill == NEW:
            asked = new_questions(seed, count, held_out=True)
        else:
            asked = questions(skill, seed, count, held_out=True)
        replies = answers(model, [question.question for question in asked], rows_at_once=50)
        right = sum(reply == question.answer for reply, question in zip(replies, asked))
        low, high = wilson(right, count)
        found[skill] = {
            "accuracy": round(right / count, 4),
            "interval": [round(low, 4), round(high, 4)],
            "questions": count,
            "held_out": skill == NEW or skill in COMBINED,
        }
        print(f"  {skill}: {right} of {count} ({low:.1%} to {high:.1%})", flush=True)
    return found


def teach(model, chosen: argparse.Namespace) -> dict:
    """Train adapters on the examples; what was done, for the result."""
    import keras

    from keras_gemma.optimizers import AdamW

    keras.utils.set_random_seed(chosen.seed)
    rows = examples(chosen.examples, chosen.old, chosen.seed)
    if chosen.rank:
        model.backbone.enable_lora(chosen.rank, chosen.targets)
    steps = chosen.epochs * -(-len(rows) // chosen.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps - steps // 20, warmup_target=chosen.rate, warmup_steps=steps // 20
    )
    model.preprocessor.sequence_length = ROW
    model.compile(AdamW(rate, global_clipnorm=1.0))
    began = time.perf_counter()
    told = model.fit(rows, batch_size=chosen.batch_size, epochs=chosen.epochs, verbose=2)
    return {
        "examples": chosen.examples,
        "old_examples": len(rows) - chosen.examples,
        "rank": chosen.rank,
        "targets": chosen.targets,
        "trained_parameters": sum(math.prod(v.shape) for v in model.trainable_variables),
        "epochs": chosen.epochs,
        "batch_size": chosen.batch_size,
        "learning_rate": chosen.rate,
        "loss": [round(loss, 4) for loss in told.history["loss"]],
        "seconds": round(time.perf_counter() - began, 1),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("preset", nargs="?", default="gemma_instruct_tiny_en")
    parser.add_argument("--examples", type=int, default=2000, help="of the new skill")
    parser.add_argument("--old", type=float, default=0.5, help="share of old examples among all")
    parser.add_argument("--questions", type=int, default=400, help="asked of each skill")
    parser.add_argument(
        "--rank", type=int, default=16, help="of the adapters; 0 trains all weights"
    )
    parser.add_argument("--targets", nargs="+", help="layers; queries and values if left out")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rate", type=float, default=3e-3, help="the highest learning rate")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="write the result file")
    chosen = parser.parse_args()

    from keras_gemma import GemmaCausalLM

    model = GemmaCausalLM.from_preset(chosen.preset)
    found = {"preset": chosen.preset, "skill": NEW, **circumstances()}
    found["example"] = new_questions(1, 1, held_out=False)[0]._asdict()
    print("before:")
    found["before"] = accuracies(model, chosen.questions)
    found["training"] = teach(model, chosen)
    print("after:")
    found["after"] = accuracies(model, chosen.questions)
    for when in ("before", "after"):
        old = [row["accuracy"] for skill, row in found[when].items() if skill != NEW]
        found[f"old_{when}"] = round(sum(old) / len(old), 4)
    print(f"old skills: {found['old_before']:.1%}, then {found['old_after']:.1%}")
    if chosen.keep:
        path = ROOT / "benchmarks" / "results" / f"new_skill_{chosen.preset}.json"
        path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
