"""What JAX compiled stays on the disk, so that the next process need not compile it again.

It lies in `KERAS_GEMMA_HOME/compiled` (`~/.cache/keras_gemma/compiled`).
KERAS_GEMMA_COMPILATION_CACHE names another folder, or is 0 for none. Where JAX was told of a
folder of its own (`JAX_COMPILATION_CACHE_DIR`), or not to keep anything, that stays.
"""

import functools
import os
from pathlib import Path

VARIABLE = "KERAS_GEMMA_COMPILATION_CACHE"
# A program that decodes takes a second or more; one operation of Keras takes 20 milliseconds.
_WORTH_KEEPING = 0.1


def folder() -> Path | None:
    """Where compiled programs are kept; `None` if the user wants none."""
    named = os.environ.get(VARIABLE, "").strip()
    if named == "0":
        return None
    home = os.environ.get("KERAS_GEMMA_HOME", "~/.cache/keras_gemma")
    return Path(named or f"{home}/compiled").expanduser()


@functools.cache
def keep_compiled() -> None:
    """Tell JAX, once in a process."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    if jax.config.jax_compilation_cache_dir or not jax.config.jax_enable_compilation_cache:
        return
    if (place := folder()) is None:
        return
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError:  # a home that can't be written to is no reason not to generate
        return
    jax.config.update("jax_compilation_cache_dir", str(place))
    at_least = min(jax.config.jax_persistent_cache_min_compile_time_secs, _WORTH_KEEPING)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", at_least)
    compilation_cache.reset_cache()  # whatever was compiled before has found no folder
