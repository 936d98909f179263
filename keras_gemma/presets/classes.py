"""The classes that preset files may name, and the modules that KerasHub records beside them."""

_GEMMA = "keras_hub.src.models.gemma.gemma_"
_GEMMA3 = "keras_hub.src.models.gemma3.gemma3_"
_HEADS = "keras_gemma.text.text_classifier_preprocessor"

MODULES = {
    "GemmaBackbone": f"{_GEMMA}backbone",
    "GemmaCausalLM": f"{_GEMMA}causal_lm",
    "GemmaCausalLMPreprocessor": f"{_GEMMA}causal_lm_preprocessor",
    "GemmaTokenizer": f"{_GEMMA}tokenizer",
    "Gemma3Backbone": f"{_GEMMA3}backbone",
    "Gemma3CausalLM": f"{_GEMMA3}causal_lm",
    "Gemma3CausalLMPreprocessor": f"{_GEMMA3}causal_lm_preprocessor",
    "Gemma3TextEmbedder": f"{_GEMMA3}text_embedder",
    "Gemma3TextEmbedderPreprocessor": f"{_GEMMA3}text_embedder_preprocessor",
    "Gemma3Tokenizer": f"{_GEMMA3}tokenizer",
    # KerasHub has no such classes; where it comes upon these, it needs ours to be imported.
    "GemmaTextClassifier": "keras_gemma.models.text_classifier",
    "GemmaTextClassifierPreprocessor": _HEADS,
    "GemmaTextEmbedder": "keras_gemma.models.text_embedder",
    "GemmaTextEmbedderPreprocessor": _HEADS,
    "Gemma3TextClassifier": "keras_gemma.models.text_classifier",
    "Gemma3TextClassifierPreprocessor": _HEADS,
}


def known_name(cls: type) -> str:
    """The name under which files have a class: its own, or that of the class it was derived from.

    >>> class Gemma3CausalLM: ...
    >>> class Mine(Gemma3CausalLM): ...
    >>> known_name(Mine)
    'Gemma3CausalLM'
    """
    return next((each.__name__ for each in cls.__mro__ if each.__name__ in MODULES), cls.__name__)
