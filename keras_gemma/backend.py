"""Which of JAX, PyTorch and TensorFlow Keras runs on, decided before Keras is imported."""

import difflib
import importlib.util
import json
import os
import sys
from pathlib import Path

BACKENDS = ("jax", "torch", "tensorflow")
_INSTALL = 'Install one, for example: pip install "keras-gemma[jax]"'


def choose_backend(name: str | None = None) -> str:
    """Choose Keras's backend, and say so to Keras through `KERAS_BACKEND`.

    The order is: `name`; the environment variable `KERAS_BACKEND`; Keras's own `keras.json`; the
    first of JAX, PyTorch and TensorFlow that is installed. No backend is imported by this. Once
    Keras is imported its backend is fixed, and is what is returned.

    Returns:
        `"jax"`, `"torch"` or `"tensorflow"`.

    Raises:
        ValueError: the name is of no backend that Gemma runs on.
        ImportError: the backend asked for is not installed, or none is.
        RuntimeError: Keras is already running on another one than `name`.
    """
    if name is not None:
        _check(name, "the backend asked for")
    if "keras" in sys.modules:
        return _imported(name)
    chosen = name or _from_environment() or _from_keras_file() or _first_installed()
    os.environ["KERAS_BACKEND"] = chosen
    return chosen


def installed_backends() -> list[str]:
    """The backends that are installed, in order of preference; none is imported."""
    return [name for name in BACKENDS if _is_installed(name)]


def _is_installed(name):
    spec = importlib.util.find_spec(name)
    # A folder that happens to be called `torch` is a namespace without a loader.
    return spec is not None and spec.loader is not None


def _check(name, source):
    if name not in BACKENDS:
        near = difflib.get_close_matches(name, BACKENDS, 1, 0.4)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{name!r} ({source}) is none of {', '.join(BACKENDS)}.{hint}")
    if not _is_installed(name):
        others = [other for other in installed_backends() if other != name]
        found = f" Installed here: {', '.join(others)}." if others else ""
        raise ImportError(
            f"{name!r} ({source}) is not installed.{found} "
            f'To install it: pip install "keras-gemma[{name}]"'
        )


def _imported(name):
    running = sys.modules["keras"].config.backend()
    if name not in (None, running):
        raise RuntimeError(
            f"Keras already runs on {running!r} and can't change to {name!r}. Choose the backend "
            "before Keras is imported, or set KERAS_BACKEND and start anew."
        )
    return running


def _from_environment():
    name = os.environ.get("KERAS_BACKEND")
    if name:
        _check(name, "from KERAS_BACKEND")
    return name


def _from_keras_file():
    path = keras_file()
    try:
        name = json.loads(path.read_text(encoding="utf-8")).get("backend")
    except (OSError, ValueError, AttributeError):  # Keras ignores a broken file as well
        return None
    # Keras writes "tensorflow" into a new file by itself, also where TensorFlow is missing: then
    # nobody has chosen it.
    if not isinstance(name, str) or (name == "tensorflow" and not _is_installed(name)):
        return None
    _check(name, f"from {path}")
    return name


def keras_file() -> Path:
    """Where Keras keeps its settings."""
    home = os.environ.get("KERAS_HOME")
    if home is None:
        base = Path("~").expanduser()
        home = (base if os.access(base, os.W_OK) else Path("/tmp")) / ".keras"
    return Path(home).expanduser() / "keras.json"


def _first_installed():
    names = installed_backends()
    if not names:
        raise ImportError(
            f"Keras needs JAX, PyTorch or TensorFlow, and none is installed. {_INSTALL}"
        )
    return names[0]
