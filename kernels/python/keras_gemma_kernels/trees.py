"""Records of arrays that JAX walks through, told to it only where it is imported anyway."""

import dataclasses
import sys

_waiting: list[tuple[type, tuple[str, ...]]] = []


def tree(*constants: str):
    """Mark a dataclass as a tree of arrays; fields named in `constants` are part of its structure."""

    def mark(record):
        _waiting.append((record, constants))
        return record

    return mark


def register_trees() -> None:
    """Called whenever a record is made: before that there is nothing JAX could meet."""
    if not _waiting or "jax" not in sys.modules:
        return
    from jax.tree_util import register_dataclass

    while _waiting:
        record, constants = _waiting.pop()
        names = [field.name for field in dataclasses.fields(record)]
        arrays = [name for name in names if name not in constants]
        register_dataclass(record, data_fields=arrays, meta_fields=list(constants))
