"""The rule by which a backend is chosen; nothing here imports one."""

import json
import os
import re
import subprocess
import sys

import pytest

from keras_gemma import backend

pytestmark = pytest.mark.once


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine without Keras imported; call it with what is installed and what is set."""
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_BACKEND", "")

    def prepare(installed, environment="", file=None):
        monkeypatch.setattr(backend, "_is_installed", lambda name: name in installed.split())
        os.environ["KERAS_BACKEND"] = environment
        if file is not None:
            (tmp_path / "keras.json").write_text(file)

    return prepare


def names(backend_name):
    return json.dumps({"backend": backend_name})


def test_a_name_goes_before_the_environment_and_that_before_the_file(machine):
    machine("jax torch tensorflow", environment="torch", file=names("tensorflow"))
    assert backend.choose_backend("jax") == "jax"
    machine("jax torch tensorflow", environment="torch")
    assert backend.choose_backend() == "torch"
    machine("jax torch tensorflow")
    assert backend.choose_backend() == "tensorflow"
    assert os.environ["KERAS_BACKEND"] == "tensorflow"


@pytest.mark.parametrize("installed, chosen", [("jax torch", "jax"), ("torch tensorflow", "torch")])
def test_without_a_choice_the_first_installed_one_is_taken(machine, installed, chosen):
    machine(installed)
    assert backend.choose_backend() == chosen


@pytest.mark.parametrize("file", [names("tensorflow"), "{broken", "[]", '{"floatx": "float32"}'])
def test_a_file_that_chooses_nothing_usable_is_passed_over(machine, file):
    # Keras itself writes "tensorflow" on its first import, also where TensorFlow is missing.
    machine("jax", file=file)
    assert backend.choose_backend() == "jax"


def test_a_choice_that_is_not_installed_is_an_error_that_names_its_source(machine):
    machine("jax", file=names("torch"))
    with pytest.raises(ImportError, match=r"keras\.json.*Installed here: jax"):
        backend.choose_backend()
    machine("jax", environment="torch")
    with pytest.raises(ImportError, match=r'KERAS_BACKEND.*pip install "keras-gemma\[torch\]"'):
        backend.choose_backend()


def test_an_unknown_name_gets_the_nearest(machine):
    machine("jax torch")
    with pytest.raises(ValueError, match="Did you mean 'torch'"):
        backend.choose_backend("pytorch")


def test_none_installed_gives_the_pip_line(machine):
    machine("")
    with pytest.raises(ImportError, match=r'pip install "keras-gemma\[jax\]"'):
        backend.choose_backend()


@pytest.mark.parametrize(
    "backend_name, told", [("abacus", "'abacus'.*is none of jax"), ("", "pip install")]
)
def test_without_a_backend_help_works_and_use_tells_what_to_do(backend_name, told, tmp_path):
    nothing = "import keras_gemma.backend as b; b._is_installed = lambda name: False; "
    start = "from keras_gemma.cli.main import main; main()"

    def call(*arguments):
        code = f"import sys; sys.argv[1:] = {list(arguments)}; {nothing}{start}"
        environment = {**os.environ, "KERAS_BACKEND": backend_name, "KERAS_HOME": str(tmp_path)}
        return subprocess.run(
            [sys.executable, "-c", code],
            check=False,
            env=environment,
            capture_output=True,
            text=True,
        )

    assert call("--help").returncode == call("presets").returncode == 0
    failed = call("generate", "Once")
    assert failed.returncode == 1 and "Traceback" not in failed.stderr
    assert re.search(told, failed.stderr)


def test_after_keras_is_imported_its_backend_stays(monkeypatch):
    import keras

    monkeypatch.setattr(backend, "_is_installed", lambda name: True)

    running = keras.config.backend()
    assert backend.choose_backend() == running
    other = next(name for name in backend.BACKENDS if name != running)
    with pytest.raises(RuntimeError, match=f"already runs on '{running}'"):
        backend.choose_backend(other)


def test_choosing_imports_no_backend():
    code = (
        "import sys, keras_gemma\n"
        "print([m for m in ('keras', 'jax', 'torch', 'tensorflow') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
