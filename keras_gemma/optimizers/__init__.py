"""Optimizers that fit language models of any dtype, and schedules that know how long a run is."""

from keras_gemma.optimizers import schedules
from keras_gemma.optimizers.adafactor import Adafactor
from keras_gemma.optimizers.adamw import AdamW
from keras_gemma.optimizers.adamw_8bit import AdamW8bit
from keras_gemma.optimizers.told_by_fit import expect_weights, gradients_weigh, set_total_steps

__all__ = [
    "Adafactor",
    "AdamW",
    "AdamW8bit",
    "expect_weights",
    "gradients_weigh",
    "schedules",
    "set_total_steps",
]
