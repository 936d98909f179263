"""How the next token is chosen. Names, arguments and defaults are KerasHub's."""

from keras_gemma.samplers.base import Sampler, SamplingContext
from keras_gemma.samplers.lookup import deserialize, get, serialize
from keras_gemma.samplers.named import GreedySampler, RandomSampler, TopKSampler, TopPSampler
from keras_gemma.samplers.noise import gumbel_noise, row_seeds

__all__ = [
    "GreedySampler",
    "RandomSampler",
    "Sampler",
    "SamplingContext",
    "TopKSampler",
    "TopPSampler",
    "deserialize",
    "get",
    "gumbel_noise",
    "row_seeds",
    "serialize",
]
