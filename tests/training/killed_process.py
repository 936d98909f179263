"""Runs that kill themselves after so many steps of their own, or never: after 0.

python killed_process.py FOLDER STEPS [FOLDER STEPS]
"""

import hashlib
import os
import signal
import sys
from pathlib import Path

import keras

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "text")]


class Kill(keras.callbacks.Callback):
    def __init__(self, steps):
        super().__init__()
        self.left = steps

    def on_train_batch_end(self, batch, logs=None):
        passing = self.model.fit_run.is_passing
        self.left -= not passing
        if self.left == 0 and not passing:
            os.kill(os.getpid(), signal.SIGKILL)


def run(folder, steps):
    from vocabularies import TURNS, train

    from keras_gemma import GemmaBackbone, GemmaCausalLM, GemmaCausalLMPreprocessor, GemmaTokenizer
    from keras_gemma.training import Checkpoint

    keras.utils.set_random_seed(1)
    tokenizer = GemmaTokenizer(train([*TURNS, "\n"]))
    backbone = GemmaBackbone(
        vocabulary_size=tokenizer.vocabulary_size(),
        num_layers=1,
        num_query_heads=2,
        num_key_value_heads=1,
        hidden_dim=16,
        intermediate_dim=32,
        head_dim=8,
    )
    model = GemmaCausalLM(backbone, GemmaCausalLMPreprocessor(tokenizer, 24))
    checkpoint = Checkpoint(folder, every=1, log_every=1, resume=True)
    texts = [f"the cat saw {count} boats" for count in range(11)]
    model.fit(texts, epochs=2, batch_size=4, verbose=0, callbacks=[checkpoint, Kill(steps)])
    digest = hashlib.sha256()
    for variable in (*model.variables, *model.optimizer.variables):
        digest.update(keras.ops.convert_to_numpy(variable).tobytes())
    print(f"digest {digest.hexdigest()}", flush=True)


if __name__ == "__main__":
    for folder, steps in zip(sys.argv[1::2], sys.argv[2::2]):
        run(folder, int(steps))
