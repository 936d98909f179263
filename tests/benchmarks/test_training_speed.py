"""How training is measured: FLOPs against PyTorch's own count, arithmetic on made-up rounds."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SIZES = {
    "vocabulary_size": 96,
    "num_layers": 3,
    "num_query_heads": 4,
    "num_key_value_heads": 2,
    "hidden_dim": 24,
    "intermediate_dim": 40,
    "head_dim": 8,
}
pytestmark = pytest.mark.once


@pytest.fixture(autouse=True)
def modules(monkeypatch):
    for folder in (BENCHMARKS / "peers", BENCHMARKS):
        monkeypatch.syspath_prepend(folder)


def load(name):
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")
@pytest.mark.parametrize("rank", [0, 5])
def test_flops_are_those_that_pytorch_counts(monkeypatch, rank):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    if rank:
        pytest.importorskip("peft")
    import shapes
    import transformers_speed
    from torch.utils.flop_counter import FlopCounterMode

    monkeypatch.setitem(shapes.SHAPES, "made_up", SIZES)
    peer = transformers_speed.Model("made_up", "float32", 1)
    peer.prepare(rank)
    peer.model.set_attn_implementation("eager")  # or its products would be one
    ids = np.random.default_rng(0).integers(1, 96, (2, 17), "int32")
    with FlopCounterMode(display=False) as counter:
        peer.train(ids, rows=2)
    flops = load("step_flops").step_flops(SIZES, rows=2, length=16, rank=rank)
    # Eager attention computes the other half of the squares, too: two products forward and four back.
    product = 2 * 16**2 * 4 * 8
    unseen = (6 * SIZES["num_layers"] - bool(rank)) * product
    assert counter.get_total_flops() == sum(flops.values()) + unseen


def test_a_share_is_what_products_take_of_what_a_step_took():
    training, step_flops = load("training"), load("step_flops")
    flops = {"head_forward": 100.0, "block_forward": 60.0}
    rates = {"head_forward": 50.0, "block_forward": 20.0}
    assert step_flops.least_seconds(flops, rates) == 5
    answers = {
        "products/jax": rates,
        "products/torch": {"failed": "no"},
        "keras_gemma/jax": {"tokens_per_second": 1.6},
        "keras_gemma/torch": {"tokens_per_second": 1.6},
        "keras_hub/jax": {"failed": "no"},
    }
    (found,) = training.shares([answers], flops, tokens=10)
    assert set(found) == {"keras_gemma/jax", "keras_gemma/torch", "keras_hub/jax"}
    ours = found["keras_gemma/jax"]  # a step takes 10 / 1.6 s
    assert ours["share"] == pytest.approx(0.8) and ours["products_flops"] == pytest.approx(32)
    assert "share" not in found["keras_gemma/torch"]


class Clockwork:
    """A step takes 2 s, and the first one 9 s more."""

    def __init__(self):
        self.now, self.asked = 0.0, []

    def prepare(self, rank):
        self.asked.append(rank)
        self.now += 9

    def train(self, ids, rows):
        self.asked.append(ids.shape)
        self.now += 2 * len(ids) / rows
        return self.loss

    loss = 3.5


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_steps_are_timed_after_the_first_ones():
    import timing

    peer = Clockwork()
    session = timing.Session(peer, lambda: peer.now, vocabulary=1000)
    request = load("training").SCENES["lora"].request()
    assert request.pop("measure") == "training"
    for _ in range(2):
        found = timing.training(session, **request)
    assert peer.asked == [8, (4, 257), (6, 257), (6, 257)]  # prepared once
    assert found["tokens_per_second"] == 256 and found["loss"] == 3.5
    assert found["bytes"] > 10**7
    peer.loss = float("nan")
    with pytest.raises(ValueError, match="the loss is nan"):
        timing.training(session, **request)


def test_the_tiny_models_process_is_taken_off():
    training = load("training")

    class Pool:
        def ask_afresh(self, name, request, shape):
            return {"bytes": 300}

    rounds = [
        {"a": {"bytes": 1000}, "b": {"failed": "no"}},
        {"a": {"bytes": 1100}, "b": {"failed": "no"}},
    ]
    training.without_the_process(Pool(), training.SCENES["full"], rounds)
    assert [answers["a"]["bytes"] for answers in rounds] == [700, 800]


@pytest.mark.parametrize("rank", [0, 3])
def test_our_side_trains(rank):
    import keras_gemma_speed

    peer = keras_gemma_speed.Model("tiny", "float32", 1)
    before = [np.array(v) for v in peer.model.get_weights()]
    peer.prepare(rank)
    ids = np.random.default_rng(0).integers(1, 2048, (4, 9), "int32")
    first = peer.train(ids, 2)
    assert peer.model.optimizer.iterations == 2
    assert peer.train(ids, 2) < first
    trained = peer.model.trainable_variables
    assert len(trained) == (8 if rank else len(before))


def test_intervals_are_wilsons_and_examples_are_never_asked():
    new_skill = load("new_skill")
    for right, asked in ((0, 400), (1, 10), (395, 400)):
        for bound in new_skill.wilson(right, asked):  # where the share is 1.96 deviations away
            deviation = (bound * (1 - bound) / asked) ** 0.5
            assert abs(right / asked - bound) == pytest.approx(1.96 * deviation, abs=1e-9)
    rows = new_skill.examples(400, old=0.2, seed=1)
    assert len(rows) == 500
    taught = {row["messages"][0]["content"] for row in rows}
    asked = {question.question for question in new_skill.new_questions(7, 200, held_out=True)}
    assert len(asked) > 150 and not asked & taught
    assert sum(question.startswith("Say these words backwards") for question in taught) > 350
