"""What rounding the weights does to a model's predictions, on text that it was never trained on.

    python benchmarks/quantization.py

For each way of rounding: the Kullback-Leibler divergence of the next token's distribution from
that of float32 (mean over tokens, nats), and how often the likeliest token is the same. Measured
through Keras's layers, and through keras-gemma-kernels where they are installed, which round
activations, too. Writes benchmarks/results/quantization.json.
"""

import json
import os

import numpy as np
from tiny_quality import ROOT, bible_parts, circumstances, windows

PRESET = "gemma_tiny_en"
CHAPTERS, ROWS_AT_ONCE = 8, 16


def forms():
    """Name to arguments of `quantize`."""
    from keras.quantizers import Int4QuantizationConfig

    return {
        "int8, a scale for each output": {"mode": "int8"},
        "int4, a scale for each 32 inputs": {"mode": "int4"},
        "int4, a scale for each 128 inputs": {"config": Int4QuantizationConfig(block_size=128)},
        "int4, a scale for each output": {"config": Int4QuantizationConfig(block_size=-1)},
    }


def rows(tokenizer):
    """`(ids, segments, counted)` of held-out chapters, each token counted once."""
    found = []
    for text in bible_parts()[1][:CHAPTERS]:
        found += windows(tokenizer.encode(text), tokenizer.start_token_id)
    width = max(len(ids) for ids, _ in found)
    ids, segments, counted = np.zeros((3, len(found), width), "int32")
    for row, (some, count) in enumerate(found):
        ids[row, : len(some)], segments[row, : len(some)] = some, 1
        counted[row, len(some) - count - 1 : len(some) - 1] = 1  # a place predicts the next one
    return ids, segments, counted


def log_probs(stack, ids, segments):
    """Of the next token at each place, float32, some rows at a time."""
    from keras import ops

    from keras_gemma.layers import Positions

    index = np.tile(np.arange(ids.shape[1], dtype="int32"), (len(ids), 1))
    for first in range(0, len(ids), ROWS_AT_ONCE):
        part = slice(first, first + ROWS_AT_ONCE)
        positions = Positions(*(ops.convert_to_tensor(x[part]) for x in (index, segments)))
        hidden, _ = stack.hidden_states(ops.convert_to_tensor(ids[part]), positions)
        logits = ops.cast(stack.logits(hidden), "float32")
        yield part, ops.convert_to_numpy(ops.log_softmax(logits, axis=-1))


def compared(stack, reference, data) -> dict:
    """Divergence and agreement over the tokens that count; `reference` is a list of `log_probs`."""
    divergence, same, tokens = 0.0, 0, 0
    for (part, ours), (_, exact) in zip(log_probs(stack, *data[:2]), reference):
        counts = data[2][part] > 0
        terms = (np.exp(exact) * (exact - ours)).sum(-1, dtype="float64")
        divergence += terms[counts].sum()
        same += (ours.argmax(-1) == exact.argmax(-1))[counts].sum()
        tokens += counts.sum()
    return {"divergence": round(divergence / tokens, 6), "same_token": round(same / tokens, 4)}


def main():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from keras_gemma import GemmaCausalLM
    from keras_gemma.generation import kernels, weights_for

    def loaded():
        return GemmaCausalLM.from_preset(PRESET, dtype="float32")

    exact = loaded()
    data, found = rows(exact.preprocessor.tokenizer), {}
    reference = list(log_probs(exact.backbone.stack, *data[:2]))
    for name, arguments in forms().items():
        model = loaded()
        model.quantize(**arguments)
        stack = model.backbone.stack
        found[name] = {"layers": compared(stack, reference, data)}
        if kernels.found().used:
            weights = weights_for(stack, model.backbone.variables, True)
            weights.refresh()
            planned = weights.stack(weights.arrays)
            found[name]["kernels"] = compared(planned, reference, data)
        print(name, json.dumps(found[name]), flush=True)
    result = {
        **circumstances(),
        "kernels": kernels.found().told,
        "preset": PRESET,
        "text": f"{CHAPTERS} chapters of the World English Bible, held out",
        "tokens": int(data[2].sum()),
        "forms": found,
    }
    path = ROOT / "benchmarks" / "results" / "quantization.json"
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
