"""The n-gram of the benchmarks: its probabilities sum to one, and it equals a slow one."""

import importlib.util
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.once


def load(name):
    path = Path(__file__).resolve().parents[2] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


KneserNey = load("ngram").KneserNey


def sequences(seed=0, size=5):
    random = np.random.default_rng(seed)
    return [random.choice(size, p=[0.4, 0.3, 0.2, 0.05, 0.05], size=n) for n in (60, 3, 1, 40)]


def test_probabilities_of_the_next_symbol_sum_to_one():
    model = KneserNey(sequences(), order=3, size=5)
    for before in ([], [0], [4, 4], [0, 1], [3, 2, 1]):
        base = model.bits(before) if before else 0.0
        total = sum(2 ** -(model.bits([*before, symbol]) - base) for symbol in range(5))
        assert total == pytest.approx(1, abs=1e-9)


def test_two_symbols_of_context_equal_a_formula_on_dictionaries():
    texts, size = sequences(1), 5
    pairs = Counter((a, b) for text in texts for a, b in zip([size, *text], text))
    alone = Counter(b for _, b in pairs)

    def discount(counts):
        once = sum(count == 1 for count in counts.values())
        twice = sum(count == 2 for count in counts.values())
        return min(once / (once + 2 * twice), 0.95) if once else 0.1

    low, high = discount(alone), discount(pairs)

    def chance(a, b):
        kinds = len(alone)
        unigram = max(alone[b] - low, 0) / alone.total() + low * kinds / alone.total() / size
        after = {pair: count for pair, count in pairs.items() if pair[0] == a}
        total = sum(after.values())
        if not total:
            return unigram
        return max(pairs[a, b] - high, 0) / total + high * len(after) / total * unigram

    model, text = KneserNey(texts, order=2, size=size), [0, 1, 4, 4, 2, 0]
    expected = -sum(np.log2(chance(a, b)) for a, b in zip([size, *text], text))
    assert model.bits(text) == pytest.approx(expected)


def test_more_symbols_than_fit_are_refused():
    with pytest.raises(ValueError, match="order=6.*64 bits"):
        KneserNey([[1]], order=6, size=2048)
