"""A model recites what it was trained on until it knew it by heart, and nothing else."""

import json

import numpy as np
import pytest

from keras_gemma.optimizers import AdamW
from keras_gemma.training import Recital, canary
from keras_gemma.training.recital import edit_distance


@pytest.mark.once
def test_what_was_learnt_by_heart_is_recited_and_other_text_is_not(model, tokenizer):
    random = np.random.default_rng(0)
    words = ["cat", "dog", "hen", "boat", "saw", "the", "ran", "big"]
    texts = [" ".join(random.choice(words, 40)) for _ in range(4)]
    known, other = texts[:2], texts[2:]
    model.preprocessor.sequence_length = 120
    model.compile(AdamW(0.02))
    assert canary(model, known, 10, 20).exact == 0
    model.fit(known, epochs=120, batch_size=2, verbose=0)
    found = canary(model, known, 10, 20)
    assert (found.checked, found.exact, found.approximate, found.shortened) == (2, 2, 2, 0)
    assert canary(model, other, 10, 20).exact == 0
    assert model.preprocessor.sequence_length == 120  # it is left as it was


def test_short_texts_are_halved_or_left_out_and_counted(model, texts):
    found = canary(model, ["a", *texts[:3]])
    assert (found.skipped, found.checked, found.shortened) == (1, 3, 3)
    assert "1 shorter than 16 tokens left out" in str(found)


@pytest.mark.once
def test_it_takes_what_fit_takes(model, texts, tmp_path):
    texts, path = texts[:3], tmp_path / "rows.jsonl"
    rows = [{"prompt": text, "response": text} for text in texts]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"prompts": texts, "responses": texts}
    found = {canary(model, data) for data in (rows, columns, path)}
    assert len(found) == 1 and found.pop().checked == 3
    assert canary(model, [{"text": text} for text in texts]) == canary(model, texts)


@pytest.mark.once
def test_the_interval_is_wilsons():
    # scipy.stats.binomtest(k, n).proportion_ci(method="wilson")
    assert Recital(100, 0, 0, 0, 0).interval(0) == pytest.approx((0.0, 0.0369935), abs=1e-6)
    assert Recital(50, 10, 10, 0, 0).interval(10) == pytest.approx((0.1124375, 0.3303711), abs=1e-6)


@pytest.mark.once
def test_edits_are_those_of_the_definition():
    random = np.random.default_rng(1)
    for _ in range(50):
        a, b = random.integers(0, 3, 12).tolist(), random.integers(0, 3, 10).tolist()
        assert edit_distance(a, b) == brute(tuple(a), tuple(b), {})


def brute(a, b, known):
    """The definition, by recursion."""
    if not a or not b:
        return len(a) + len(b)
    if (a, b) not in known:
        known[a, b] = min(
            brute(a[1:], b, known) + 1,
            brute(a, b[1:], known) + 1,
            brute(a[1:], b[1:], known) + (a[0] != b[0]),
        )
    return known[a, b]
