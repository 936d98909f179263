"""What a sampler may know of the texts that it samples for."""

import contextlib
import contextvars
from typing import Any, NamedTuple

_NONE: dict[str, Any] = {}


class SamplingContext(NamedTuple):
    """The texts so far; one row per sequence."""

    token_ids: Any  # int32 BL, prompt and answer, padded on the right
    lengths: Any  # int32 B, how many of them are real
    seeds: Any  # int32 B
    prompt_lengths: Any = None  # int32 B, how many of them were given
    # Numbers of the rows by name, float32 B, in place of the sampler's own: `row_settings`.
    settings: dict[str, Any] = _NONE


# The context of the call that is being traced or run: `get_next_token` has KerasHub's signature,
# and no place for it.
_CURRENT: contextvars.ContextVar[SamplingContext | None] = contextvars.ContextVar(
    "sampling_context", default=None
)


def current() -> SamplingContext | None:
    """The context of the sampler's call that is under way; `None` outside of one."""
    return _CURRENT.get()


@contextlib.contextmanager
def given(context: SamplingContext):
    """Make it the current one."""
    token = _CURRENT.set(context)
    try:
        yield
    finally:
        _CURRENT.reset(token)
