"""Bounds of numbers in a JSON schema, as llguidance keeps to them."""

import math
from collections.abc import Mapping
from typing import Any

_VALUES = ("const", "enum", "default", "examples")  # what stands there is no schema
_NAMED = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")
_STEP_FROM_ZERO = 1e-15
_ALL_WHOLE = 2.0**53  # from there on, no float has a fraction


def with_safe_bounds(schema: Any) -> Any:
    """The schema, in which no number can be written that a bound excludes.

    llguidance takes `0` for a number above 0 and below 0.5: of a bound that is a whole number and
    excluded, where the other bound lies before the next whole number. Here the float after the next
    takes its place, as one that is allowed (it takes the next one for the whole number itself); a
    step of 1e-15 in place of 0, less where the other bound is less than 1. Integers are kept to as
    they are.

    >>> with_safe_bounds({"type": "number", "exclusiveMinimum": 1, "maximum": 1.5})
    {'type': 'number', 'maximum': 1.5, 'minimum': 1.0000000000000004}
    """
    if isinstance(schema, list):
        return [with_safe_bounds(each) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    safe = {}
    for key, value in schema.items():
        if key in _VALUES:
            safe[key] = value
        elif key in _NAMED and isinstance(value, Mapping):
            safe[key] = {name: with_safe_bounds(each) for name, each in value.items()}
        else:
            safe[key] = with_safe_bounds(value)
    if safe.get("type") != "integer":
        _move(safe, "inimum", "aximum", 1)
        _move(safe, "aximum", "inimum", -1)
    return safe


def _move(schema, near, far, sign):
    """Move an excluded bound, the lower by a sign of 1, the upper by -1; in place."""
    bound = sign * _number(schema, "exclusiveM" + near, -sign * math.inf)
    if not (0 <= bound < _ALL_WHOLE and bound == math.floor(bound)):
        return
    other = min(sign * _number(schema, kind + far, sign * math.inf) for kind in ("exclusiveM", "m"))
    step = _STEP_FROM_ZERO * (other if 0 < other < 1 else 1)
    moved = bound + 2 * math.ulp(bound) if bound else step
    del schema["exclusiveM" + near]
    schema["m" + near] = sign * max(moved, sign * _number(schema, "m" + near, -sign * math.inf))


def _number(schema, key, default):
    value = schema.get(key)
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else default
