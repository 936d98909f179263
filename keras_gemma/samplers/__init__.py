"""How the next token is chosen. Names, arguments and defaults are KerasHub's."""

from keras_gemma.samplers.base import NO_TOKEN, Sampler
from keras_gemma.samplers.context import SamplingContext
from keras_gemma.samplers.lookup import deserialize, get, serialize
from keras_gemma.samplers.named import (
    GreedySampler,
    MinPSampler,
    RandomSampler,
    TopKSampler,
    TopPSampler,
    TypicalSampler,
)
from keras_gemma.samplers.noise import gumbel_noise, row_seeds
from keras_gemma.samplers.rows import row_settings, settings_of
from keras_gemma.samplers.search import BeamSampler, ContrastiveSampler, SearchSampler

__all__ = [
    "NO_TOKEN",
    "BeamSampler",
    "ContrastiveSampler",
    "GreedySampler",
    "MinPSampler",
    "RandomSampler",
    "Sampler",
    "SamplingContext",
    "SearchSampler",
    "TopKSampler",
    "TopPSampler",
    "TypicalSampler",
    "deserialize",
    "get",
    "gumbel_noise",
    "row_seeds",
    "row_settings",
    "serialize",
    "settings_of",
]
