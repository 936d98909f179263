"""A small model, and its next tokens by whole forward passes."""

import numpy as np
from conftest import SIZES, WINDOWED, loud

from keras_gemma import GemmaBackbone, GemmaCausalLM

VOCABULARY = SIZES["vocabulary_size"]
# Of unlike length, one of them longer than a chunk's window.
PROMPTS = [np.random.default_rng(8).integers(1, VOCABULARY, n).tolist() for n in (3, 8, 15)]
_ROWS, _WIDTH = 4, 40  # of each pass, so that one program does


def small_model():
    return GemmaCausalLM(loud(GemmaBackbone(**SIZES, **WINDOWED), seed=2))


def whole_passes(model, texts):
    """Hidden states (rows, width, D) and logits of the next token (rows, V) of equally long texts."""
    count, length = len(texts), len(texts[0])
    ids = np.zeros((_ROWS, _WIDTH), "int32")
    ids[:count, :length] = texts
    mask = np.tile(np.arange(_WIDTH) < length, (_ROWS, 1)).astype("int32")
    batch = {"token_ids": ids, "padding_mask": mask}
    logits = model.predict_on_batch(batch)[:count, length - 1].astype("float64")
    return model.backbone.predict_on_batch(batch)[:count, :length].astype("float64"), logits


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def arrays(prompts, width=_WIDTH):
    ids, mask = np.zeros((2, len(prompts), width), "int32")
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)], mask[row, : len(prompt)] = prompt, 1
    return {"token_ids": ids, "padding_mask": mask}


def answers(out, prompts):
    """The new ids of each row of what generate returned."""
    rows = zip(out["token_ids"], out["padding_mask"], prompts)
    return [ids[real].tolist()[len(prompt) :] for ids, real, prompt in rows]
