"""The best next tokens of a few prompts, with their logits: what a preset's card keeps, to compare."""

from typing import Any

import keras
import numpy as np

PROMPTS = (
    "The capital of France is",
    "Once upon a time",
    "def fibonacci(n):\n    ",
    "2 + 2 =",
)
_UNNAMED = ((2, 5, 7, 11), (2, 30, 20, 10, 3))  # of a model without a tokenizer
_BEST = 5


def golden_logits(model: Any) -> list[dict[str, Any]]:
    """Of each prompt its ids, and the ids and logits of the best tokens after it.

        model = GemmaCausalLM.from_preset("gemma_tiny_en", dtype="float32")
        golden_logits(model)[0]["logits"]

    Args:
        model: a `GemmaCausalLM`; one without a tokenizer is asked about a few rows of ids.
    """
    if model.preprocessor is None:
        rows = [(None, [i % model.backbone.vocabulary_size for i in ids]) for ids in _UNNAMED]
    else:
        tokenizer = model.preprocessor.tokenizer
        rows = [(p, [tokenizer.start_token_id, *tokenizer.encode(p)]) for p in PROMPTS]
    found = []
    for prompt, ids in rows:
        batch = {
            "token_ids": np.array([ids], "int32"),
            "padding_mask": np.ones((1, len(ids)), bool),
        }
        logits = keras.ops.cast(model(batch)[0, -1], "float32")
        logits = np.asarray(keras.ops.convert_to_numpy(logits))
        best = np.argsort(-logits, kind="stable")[:_BEST].tolist()
        found.append(
            {
                "prompt": prompt,
                "ids": ids,
                "best": best,
                "logits": [float(f"{logits[i]:.7g}") for i in best],
            }
        )
    return found
