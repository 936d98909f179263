"""Tables of speed, from results made up for it."""

import json
import runpy
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[2]


def row(figure, times=None, **sides):
    return {
        "title": "decode",
        "figure": figure,
        "sides": {name.replace("__", "/"): found for name, found in sides.items()},
        "times": times or {},
        "load": {"cores_busy_elsewhere": 0.031},
        "date": "2026-01-02",
    }


DECODE = row(
    "tokens_per_second",
    {
        "keras_gemma/jax": {"keras_hub/jax": 2.0, "llama_cpp": 1.25},
        "keras_gemma/jax/pure": {"keras_hub/jax": 1.5, "llama_cpp": 0.9},
    },
    keras_gemma__jax={"tokens_per_second": 24.61, "kernels": "kernels 0.1, avx2"},
    keras_gemma__torch={"tokens_per_second": 20.0, "kernels": "kernels 0.1, avx2"},
    keras_gemma__jax__pure={"tokens_per_second": 18.0, "kernels": None},
    keras_hub__jax={"tokens_per_second": 12.0, "versions": {"keras-hub": "0.32.0"}},
    zeromodels__jax={"failed": "not installed: zeromodels", "missing": True},
    transformers__torch={"failed": "RuntimeError: no"},
    llama_cpp={"tokens_per_second": 20.5},
)
FIRST = row(
    "seconds",
    keras_gemma__jax={"seconds": 1.5, "kernels": "kernels 0.1, avx2"},
    llama_cpp={"seconds": 0.1734},
)
RESULT = {
    "shape": "270m",
    "dtype": "float32",
    "cores": 1,
    "weight_bytes": 1_056_000_000,
    "processor": {"name": "A processor", "flags": ["avx2", "avx512f"]},
    "scenes": {"decode_32": DECODE, "first_token_32": FIRST},
}


@pytest.fixture
def tables():
    return runpy.run_path(str(ROOT / "docs" / "speed_tables.py"))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "generation_270m_float32_1.json").write_text(json.dumps(RESULT))
    return tmp_path


def test_a_library_is_shown_by_its_best_side_and_the_winner_is_bold(tables, folder):
    text = tables["short"](folder)
    wanted = "| float32: decode | **24.6/s (JAX)** | 18/s (JAX) | 12/s (JAX) | not installed | failed | 20.5/s |"
    assert wanted in text
    assert "| float32: decode | 1.50 s (JAX) |  |  |  |  | **173 ms** |" in text
    assert "A processor (avx2, avx512f)" in text and "keras-hub 0.32.0" in text
    assert "0.03 cores were busy" in text


def test_every_side_and_ratio_is_in_the_full_table(tables, folder):
    text = tables["full"](folder)
    assert "### 270m, float32, one core" in text
    assert "| `keras_gemma/torch`, kernels 0.1, avx2 | 20/s |  |" in text
    assert "| `zeromodels/jax` | not installed |  |" in text
    assert "| `keras_hub/jax` | 2.00 / 1.50 | – / – |" in text
    assert "| `llama_cpp` | 1.25 / 0.90 | – / – |" in text


def test_without_results_that_is_said(tables, tmp_path):
    assert tables["short"](tmp_path) == tables["full"](tmp_path) == tables["NONE_YET"]


def test_memory_is_told_in_weights(tables):
    found = row("bytes", a={"bytes": 1_161_600_000, "of_weights": 1.1})
    assert tables["quantity"](found, "a") == "1,162 MB (1.10 x)"


def test_what_a_gpu_did_and_what_was_left_out(tables, tmp_path):
    assert tables["on_gpus"](tmp_path) == tables["NONE_YET"]
    case = {
        "shape": "gemma_2b_en",
        "prompt": 2048,
        "rows": 8,
        "first_token_seconds": 0.0456,
        "decode_tokens_per_second": 2876.4,
        "share_of_bandwidth": 0.541,
        "share_of_flops": 0.1815,
    }
    result = {
        "device": "A GPU",
        "backend": "torch",
        "dtype": "bfloat16",
        "date": "2026-01-02",
        "cases": [case, {"shape": "a", "prompt": 1, "rows": 1, "left_out": "no time was left"}],
    }
    (tmp_path / "gpu_torch.json").write_text(json.dumps(result))
    text = tables["on_gpus"](tmp_path)
    assert "### PyTorch, bfloat16, A GPU" in text
    assert "| `gemma_2b_en` | 2,048 | 8 | 46 ms | 18% | 2,876/s | 54% |" in text
    assert "Left out or failed: 1." in text
