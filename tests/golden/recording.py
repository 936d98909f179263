"""What the bundled base model computes, for comparison between backends.

KERAS_BACKEND=jax python tests/golden/recording.py     # writes gemma_tiny_en.json anew
"""

import json
from pathlib import Path

import keras
import numpy as np

from keras_gemma import GemmaCausalLM
from keras_gemma.optimizers import AdamW

FILE = Path(__file__).with_name("gemma_tiny_en.json")
PROMPTS = [
    "Once upon a time",
    "In the beginning",
    "The king said",
    "Once upon a time there was a little girl named Lena. She had a red kite. One day",
]


def logits():
    """Logits of the last token of each prompt, every sixteenth, and the largest of all."""
    model = GemmaCausalLM.from_preset("gemma_tiny_en", dtype="float32")
    batch = model.preprocessor.generate_preprocess(PROMPTS, sequence_length=64)
    found = np.asarray(keras.ops.convert_to_numpy(model(batch)), "float64")
    last = batch["padding_mask"].sum(1) - 1
    rows = found[np.arange(len(PROMPTS)), last]
    return {"every_16th": np.round(rows[:, ::16], 6).tolist(), "largest": float(np.abs(rows).max())}


def greedy_texts():
    model = GemmaCausalLM.from_preset("gemma_tiny_en", dtype="float32")
    return model.generate(PROMPTS, max_new_tokens=48)


def losses():
    """Loss of each of 20 steps of training on the four prompts, without shuffling."""
    model = GemmaCausalLM.from_preset("gemma_tiny_en", dtype="float32")
    model.preprocessor.sequence_length = 32
    model.compile(optimizer=AdamW(1e-4))
    x, y, weights = model.preprocessor(PROMPTS)
    return [float(model.train_on_batch(x, y, weights, return_dict=True)["loss"]) for _ in range(20)]


if __name__ == "__main__":
    record = {"backend": keras.backend.backend(), "logits": logits()}
    record |= {"greedy_texts": greedy_texts(), "losses": losses()}
    FILE.write_text(json.dumps(record, indent=1) + "\n")
