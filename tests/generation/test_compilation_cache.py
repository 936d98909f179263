"""What JAX compiled is kept where the user wants it, or not at all."""

import keras
import pytest
from keras import ops

from keras_gemma.generation.compilation_cache import VARIABLE, folder, keep_compiled
from keras_gemma.generation.compiled import compiler

on_jax = pytest.mark.skipif(keras.config.backend() != "jax", reason="JAX's cache")


@pytest.fixture
def told(monkeypatch, tmp_path):
    """JAX as it is at first, and told anew by a call; after the test as it was."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    names = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
    before = {name: getattr(jax.config, name) for name in names}
    monkeypatch.setenv(VARIABLE, str(tmp_path / "compiled"))
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)

    def call():
        keep_compiled.__wrapped__()
        return jax.config

    yield call
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.mark.once
def test_a_folder_may_be_named_or_declined(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_GEMMA_HOME", str(tmp_path))
    monkeypatch.delenv(VARIABLE, raising=False)
    assert folder() == tmp_path / "compiled"
    monkeypatch.setenv(VARIABLE, str(tmp_path / "elsewhere"))
    assert folder() == tmp_path / "elsewhere"
    monkeypatch.setenv(VARIABLE, "0")
    assert folder() is None


@on_jax
def test_a_program_is_kept(told, tmp_path):
    config = told()
    config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    compiler(()).program(lambda x: ops.tanh(x) * 7.125)(ops.ones((3, 5)))
    assert list((tmp_path / "compiled").glob("jit_run-*"))


@on_jax
def test_what_jax_was_told_stays(told, tmp_path):
    import jax

    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "theirs"))
    assert told().jax_compilation_cache_dir == str(tmp_path / "theirs")
    assert not (tmp_path / "compiled").exists()


@on_jax
def test_a_folder_that_cannot_be_made_is_done_without(told, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file" / "compiled"))
    assert told().jax_compilation_cache_dir is None
