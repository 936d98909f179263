"""What a generated text must look like: which tokens may come next. No tensors, no backend."""

from keras_gemma.constraints.choices import Choices
from keras_gemma.constraints.constraint import Constraint, Matcher
from keras_gemma.constraints.grammars import Grammar, JSONSchema, Regex

__all__ = ["Choices", "Constraint", "Grammar", "JSONSchema", "Matcher", "Regex"]
