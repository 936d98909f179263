"""Tables of training and of a new skill, from results made up for them."""

import json
import runpy
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

DOCS = Path(__file__).resolve().parents[2] / "docs"
STEP = {
    "title": "LoRA, 2 x 256 tokens",
    "figure": "tokens_per_second",
    "flops": {"head_forward": 5e11, "block_forward": 3.12e11},
    "sides": {
        "keras_gemma/jax": {
            "tokens_per_second": 66.04,
            "share": 0.931,
            "products_flops": 8.8e10,
            "bytes": 3e9,
            "versions": {"keras-gemma": "0.2"},
        },
        "keras_gemma/torch": {"failed": "RuntimeError: no"},
        "keras_hub/jax": {"tokens_per_second": 55.0, "bytes": 5e9},
        "transformers/torch": {"tokens_per_second": 60.0, "bytes": 4e9},
        "keras_hub/torch": {"failed": "not installed: keras_hub", "missing": True},
    },
    "times": {"keras_gemma/jax": {"keras_hub/jax": 1.2, "transformers/torch": 1.1}},
    "load": {"cores_busy_elsewhere": 0.02},
    "date": "2026-01-02",
}
RESULT = {
    "shape": "270m",
    "dtype": "float32",
    "cores": 1,
    "processor": {"name": "A processor", "flags": ["avx2"]},
    "scenes": {"lora": STEP},
}


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    return runpy.run_path(str(DOCS / "training_tables.py"))


def test_each_side_has_its_rate_its_share_and_its_memory_beside_the_best_peers(tables, tmp_path):
    (tmp_path / "training_270m_float32_1.json").write_text(json.dumps(RESULT))
    # What is known of the bundled models' own training is another matter.
    (tmp_path / "training_gemma_tiny_en.json").write_text('{"tokens_seen": 1}')
    text = tables["steps"](tmp_path)
    assert "### LoRA, 2 x 256 tokens: 270m, float32, one core" in text
    ours = "| `keras_gemma/jax` | 66.0 | 93% of 88 GFLOP/s | 3,000 MB (0.75 x) | 1.20 | 1.10 |  |"
    assert ours in text
    assert "| `keras_hub/jax` | 55.0 |  | 5,000 MB |  |  |  |" in text
    assert "| `keras_gemma/torch` | failed |" in text
    assert "| `keras_hub/torch` | not installed |" in text
    assert "A step takes 812 GFLOP. A processor (avx2)" in text and "keras-gemma 0.2" in text
    columns = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert len(columns) == 1


def test_a_new_skill_stands_beside_the_old_ones_with_intervals(tables, tmp_path):
    def row(accuracy, held_out):
        spread = [accuracy - 0.01, accuracy + 0.01]
        found = {"accuracy": accuracy, "interval": spread, "questions": 400}
        return {**found, "held_out": held_out}

    found = {
        "preset": "made_up",
        "skill": "whistle",
        "example": {"question": "Whistle.", "answer": "Whee"},
        "training": {
            "examples": 2000,
            "old_examples": 500,
            "rank": 8,
            "trained_parameters": 12_345,
            "epochs": 3,
            "seconds": 130.0,
        },
        "before": {"whistle": row(0.01, True), "sing": row(0.98, False)},
        "after": {"whistle": row(0.95, True), "sing": row(0.97, False)},
        "old_before": 0.98,
        "old_after": 0.97,
        "device": "a laptop",
        "backend": "jax",
        "date": "2026-01-02",
    }
    (tmp_path / "new_skill_made_up.json").write_text(json.dumps(found))
    text = tables["new_skills"](tmp_path)
    assert "| **whistle** | 1.0% (0.0% to 2.0%) | 95.0% (94.0% to 96.0%) | yes |" in text
    assert "| sing | 98.0% (97.0% to 99.0%) | 97.0% (96.0% to 98.0%) | no |" in text
    assert "from 2,000 examples, with 500 of its old skills among them" in text
    assert "LoRA of rank 8, 12,345 numbers trained, 3 epochs, 2 minutes" in text
    assert "98.0% and is 97.0%" in text and "400 questions a skill" in text


def test_without_results_that_is_said(tables, tmp_path):
    assert tables["steps"](tmp_path) == tables["new_skills"](tmp_path) == tables["NONE_YET"]
