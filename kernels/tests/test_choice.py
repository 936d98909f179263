import os
import subprocess
import sys

import keras_gemma_kernels as kg
import pytest
from keras_gemma_kernels import _native


def run(code, **environment):
    environment = os.environ | environment
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )


@pytest.mark.parametrize("name", _native.isas())
def test_the_environment_names_the_instruction_set(name):
    code = "import keras_gemma_kernels as kg; print(kg.available().isa)"
    assert run(code, KERAS_GEMMA_KERNELS_ISA=name).stdout.strip() == name


def test_a_name_that_is_not_known_is_warned_of():
    done = run(
        "import keras_gemma_kernels as kg; print(kg.available().isa)", KERAS_GEMMA_KERNELS_ISA="mmx"
    )
    assert done.stdout.strip() == _native.isas()[-1]
    assert "KERAS_GEMMA_KERNELS_ISA='mmx' can't run here" in done.stderr


def test_a_missing_library_is_told_and_raises_where_it_is_needed():
    done = run(
        "from keras_gemma_kernels import _native, available, pack\n"
        "import numpy as np\n"
        "_native.FILE = _native.FILE.with_name('none.so')\n"
        "print(available())\n"
        "try: pack(np.ones((1, 1), 'float32'))\n"
        "except ImportError as error: print(error)"
    )
    assert "isa=None" in done.stdout and "The kernels can't be loaded" in done.stdout


def test_no_framework_is_imported_before_its_arrays_come():
    code = (
        "import sys, numpy as np, keras_gemma_kernels as kg\n"
        "kg.linear(np.ones((1, 3), 'float32'), kg.pack(np.ones((2, 3), 'float32')))\n"
        "print({'jax', 'torch', 'keras', 'tensorflow'} & set(sys.modules))"
    )
    assert run(code).stdout.strip() == "set()"


def test_an_unknown_set_is_refused():
    with pytest.raises(ValueError, match="'sse' can't run here; it may be one of portable"):
        _native.use("sse")
    assert kg.available().isa == _native.isas()[-1]
