"""Asked of an environment that holds one backend: does the package choose it, and speak?

python tests/house/one_backend.py jax

Needs nothing but the installed package; `.ci/run` calls it in three fresh environments.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

OTHERS = {"jax", "torch", "tensorflow"}


def main(backend: str) -> None:
    """Exit with an error unless all is as it should be."""
    for other in OTHERS - {backend}:
        assert importlib.util.find_spec(other) is None, f"{other} is installed beside {backend}"
    environment = {key: value for key, value in os.environ.items() if key != "KERAS_BACKEND"}

    def call(*command):
        # Elsewhere than in the checkout, so that the installed package is meant.
        done = subprocess.run(
            command, check=False, env=environment, cwd=sys.prefix, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command} failed:\n{done.stderr}"
        return done.stdout

    check = "import keras_gemma, keras; print(keras.config.backend(), keras_gemma.__file__)"
    chosen, place = call(sys.executable, "-c", check).split()
    assert chosen == backend, f"chose {chosen}, has {backend}"
    assert Path(place).is_relative_to(sys.prefix), f"{place} is not the installed package"

    command = Path(sys.executable).with_name("keras-gemma")
    assert "gemma_2b_en" in call(command, "presets")
    listed = call(sys.executable, "-c", "from keras_gemma.presets import names; print(*names())")
    if "gemma_tiny_en" not in listed.split():
        print(f"{backend}: chosen; gemma_tiny_en is not in the package, so nothing was generated")
        return
    text = call(command, "generate", "Once upon a time", "--max-new-tokens", "40", "--seed", "1")
    assert text.startswith("Once upon a time") and len(text) > 60, text
    print(f"{backend}: chosen, and says: {text}")


if __name__ == "__main__":
    main(*sys.argv[1:])
