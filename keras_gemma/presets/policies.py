"""The dtype policies that a preset may name: plain ones, and those of quantized presets.

Weights are loaded as floats, whatever they are stored as, so all that matters here is that a record
is understood: what it says of a quantization that is not read must not be passed over.
"""

import re
from collections.abc import Mapping
from typing import Any

from keras_gemma.presets.errors import BadPresetError

FLOATS = ("float32", "bfloat16", "float16", "mixed_bfloat16", "mixed_float16")
# How each of Keras's classes says its quantization.
_QUANTIZED = {"QuantizedDTypePolicy": r"int8|int4", "Int4DTypePolicy": r"int4/-?\d{1,6}"}
_PLAIN = ("DTypePolicy", "FloatDTypePolicy")
_NAME = re.compile(r"(?:int8|int4|int4/-?\d{1,6})_from_(\w+)")
_MOST_LAYERS = 20_000


def float_policy(value: Any, where: str) -> str | None:
    """The name of the float policy in a configuration's `dtype`; `None` if it tells none.

    >>> float_policy({"class_name": "DTypePolicy", "config": {"name": "bfloat16"}}, "config.json")
    'bfloat16'
    >>> float_policy("int8_from_float32", "config.json")
    'float32'

    Raises:
        BadPresetError: it is none of the closed table: another dtype, class or quantization.
    """
    if value is None:
        return None
    if not isinstance(value, Mapping):
        return _named(value, where)
    class_name, config = value.get("class_name"), value.get("config")
    if not isinstance(config, Mapping):
        config = {}
    if class_name in _PLAIN:
        return _named(config.get("name"), where)
    if class_name == "DTypePolicyMap":
        return _of_map(config, where)
    awaited = _QUANTIZED.get(str(class_name))
    if awaited and re.fullmatch(awaited, str(config.get("mode"))):
        source = config.get("source_name")
        return None if source is None else _named(source, where)
    mode = config.get("mode")
    raise BadPresetError(
        f"{where}: dtype is a {_shown(class_name)} of mode {_shown(mode)}. Quantized presets are "
        "read where they hold int8 or int4 as KerasHub's quantize('int8') and quantize('int4') "
        f"make them, and of plain policies {', '.join(FLOATS)}."
    )


def _of_map(config, where):
    """A policy per layer: the one of the most is the rest's, or the default's."""
    table = config.get("policy_map")
    if not isinstance(table, Mapping) or len(table) > _MOST_LAYERS:
        raise BadPresetError(f"{where}: policy_map of dtype must be an object.")
    found = []
    for record in table.values():
        if isinstance(record, Mapping) and record.get("class_name") == "DTypePolicyMap":
            raise BadPresetError(f"{where}: a policy_map of dtype must not hold another one.")
        found.append(float_policy(record, where))
    default = config.get("default_policy")
    if isinstance(default, Mapping) and default.get("class_name") == "DTypePolicyMap":
        raise BadPresetError(f"{where}: the default policy of dtype must be of one kind.")
    return float_policy(default, where) or next(filter(None, found), None)


def _named(name, where):
    quantized = _NAME.fullmatch(name) if isinstance(name, str) else None
    plain = quantized[1] if quantized else name
    if plain not in FLOATS:
        raise BadPresetError(f"{where}: dtype={_shown(name)} must be one of {', '.join(FLOATS)}.")
    return plain


def _shown(value):
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
