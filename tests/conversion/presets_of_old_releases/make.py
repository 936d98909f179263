"""Saves a tiny Gemma as one release of KerasNLP or KerasHub does; README.md says how it is run.

Beside the preset, `expected.json` holds what that release computes with those weights, in float32.
"""

import json
import sys
from pathlib import Path

import keras
import numpy as np

SIZES = {
    "vocabulary_size": 64,
    "num_layers": 2,
    "num_query_heads": 4,
    "num_key_value_heads": 1,
    "hidden_dim": 8,
    "intermediate_dim": 24,
    "head_dim": 4,
}
NORMS = {"use_post_ffw_norm": True, "use_post_attention_norm": True}
WINDOW = {"use_sliding_window_attention": True, "sliding_window_size": 4}
KINDS = {
    "gemma": ("Gemma", {}),
    "gemma2": (
        "Gemma",
        {**NORMS, **WINDOW, "attention_logit_soft_cap": 50.0, "final_logit_soft_cap": 30.0},
    ),
    "gemma3": ("Gemma3", {**NORMS, **WINDOW, "image_size": None, "use_query_key_norm": True}),
}


def release():
    try:
        import keras_hub as hub
    except ImportError:
        import keras_nlp as hub
    return hub


def main(kind, dtype, vocabulary, folder):
    hub = release()
    name, options = KINDS[kind]
    make = getattr(hub.models, f"{name}Backbone")
    model, stored = (make(**SIZES, **options, dtype=d) for d in ("float32", dtype))
    random = np.random.RandomState(0)
    for ours, theirs in zip(model.weights, stored.weights):
        if "seed" in ours.path:
            continue
        numbers = random.normal(0, 0.4, ours.shape).astype("float32")
        theirs.assign(numbers)
        ours.assign(keras.ops.cast(theirs, "float32"))  # as the file will hold them
    token_ids = random.randint(1, 64, (2, 9)).astype("int32")
    hidden = model({"token_ids": token_ids, "padding_mask": np.ones_like(token_ids)})
    tokenizer = getattr(hub.models, f"{name}Tokenizer")(proto=vocabulary)
    if hasattr(getattr(hub.models, f"{name}CausalLM"), "save_to_preset"):
        options = {"image_converter": None} if name == "Gemma3" else {}
        preprocessor = getattr(hub.models, f"{name}CausalLMPreprocessor")(
            tokenizer=tokenizer, sequence_length=16, **options
        )
        task = getattr(hub.models, f"{name}CausalLM")(backbone=stored, preprocessor=preprocessor)
        task.save_to_preset(folder)
    elif hasattr(stored, "save_to_preset"):  # of KerasNLP 0.9
        stored.save_to_preset(folder)
        tokenizer.save_to_preset(folder)
    else:  # of KerasNLP 0.8
        from keras_nlp.src.utils.preset_utils import save_to_preset

        save_to_preset(stored, folder)
        save_to_preset(tokenizer, folder, config_filename="tokenizer.json")
    expected = {
        "release": hub.__version__,
        "keras": keras.__version__,
        "token_ids": token_ids.tolist(),
        "hidden": np.asarray(hidden).astype("float64").round(6).tolist(),
    }
    (Path(folder) / "expected.json").write_text(json.dumps(expected))


if __name__ == "__main__":
    main(*sys.argv[1:])
