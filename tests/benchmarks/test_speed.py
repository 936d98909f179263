"""How peers are measured: its arithmetic on made-up times, its processes on a made-up library."""

import functools
import importlib.util
import itertools
import json
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
PEERS = BENCHMARKS / "peers"
needs_proc = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="measures memory and load by Linux's /proc"
)
pytestmark = pytest.mark.once


@pytest.fixture(autouse=True)
def modules(monkeypatch):
    for folder in (PEERS, BENCHMARKS):
        monkeypatch.syspath_prepend(folder)


def load(name):
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Clockwork:
    """A token of a prompt takes 10 ms, each of an answer 250 ms, and the first call of a shape 9 s."""

    def __init__(self):
        self.now, self.seen, self.prompts = 0.0, set(), []

    def generate(self, ids, count, room):
        self.prompts.append(ids)
        self.now += ids.size * 0.01 + (count - 1) * 0.25
        if (call := (ids.shape, count)) not in self.seen:
            self.seen.add(call)
            self.now += 9
        return np.zeros((len(ids), count), "int32")

    def answer_all(self, requests, slots, gap):
        self.asked = [(len(ids), count) for ids, count in requests]
        self.now += sum(ids.size * 0.01 + (count - 1) * 0.25 / slots for ids, count in requests)
        return [[1] * count for _, count in requests]


@pytest.fixture
def session():
    import timing

    peer = Clockwork()
    return timing.Session(peer, lambda: peer.now, vocabulary=1000)


def test_rates_and_seconds_leave_out_what_is_paid_once(session):
    import timing

    assert timing.decode(session, prompt=20, rows=3, short=2, long=12) == pytest.approx(
        {"tokens_per_second": 3 / 0.25}
    )
    assert timing.first_token(session, prompt=20, rows=3) == pytest.approx({"seconds": 0.6})
    turn = timing.second_turn(session, history=40, message=10, answer=4)
    assert turn == pytest.approx({"seconds": 0.5, "of_anew": 1.0})
    assert timing.cold(session, prompt=7, count=2)["seconds"] == pytest.approx(9.32)


def test_requests_in_slots_are_set_beside_one_after_another(session):
    import timing

    found = timing.ragged(session, slots=2, requests=9, gap=1)
    prompts, answers = map(sum, zip(*(asked := session.peer.asked)))
    assert found["tokens_per_second"] == pytest.approx(
        answers / (prompts * 0.01 + (answers - 9) * 0.125)
    )
    prompts, answers = map(sum, zip(*asked[:3]))
    alone = answers / (prompts * 0.01 + (answers - 3) * 0.25)
    assert found["of_one_by_one"] == pytest.approx(found["tokens_per_second"] / alone)
    session.peer.answer_all = lambda requests, slots, gap: [[1]] * len(requests)
    with pytest.raises(ValueError, match=r"made \[1, 1"):
        timing.ragged(session, slots=2, requests=2, gap=1)


def test_no_prompt_comes_twice(session):
    import timing

    timing.first_token(session, prompt=20)
    prompts = session.peer.prompts
    assert len({ids.tobytes() for ids in prompts}) == len(prompts) > 2


def test_a_peer_that_stops_early_is_not_timed(session):
    session.peer.generate = lambda ids, count, room: np.zeros((1, count - 1))
    with pytest.raises(ValueError, match=r"shape \(1, 4\), not \(1, 5\)"):
        session.seconds(1, 8, 5, 5)


def test_parameters_are_those_of_the_preset_rule():
    import shapes

    from keras_gemma.presets.sizes import parameter_count

    for shape in shapes.SHAPES.values():
        sizes = shapes.both_branches(shape)
        assert shapes.parameters(shape) == parameter_count("GemmaBackbone", sizes)


LIBRARY = """
import os
import sys

sys.path.insert(0, {peers!r})
from timing import serve


class Model:
    def __init__(self, shape, dtype, cores):
        if dtype == "bfloat16":
            import there_is_no_such_library
        print("noise of a library")
        self.megabytes = 20 if shape == "tiny" else 90
        self.facts = {{"process": os.getpid(), "folder": os.environ["JAX_COMPILATION_CACHE_DIR"]}}

    def generate(self, ids, count, room):
        if count == 13:
            sys.exit("no luck")
        if count == 14:
            raise RuntimeError("can't")
        scratch = bytearray(self.megabytes << 20)
        scratch[::4096] = b"x" * len(scratch[::4096])
        return [[1] * count for _ in ids]


serve(Model)
"""


@pytest.fixture
def pool(monkeypatch, tmp_path):
    import sides

    folder = tmp_path / "peers"
    folder.mkdir()
    for name in ("one", "two"):
        (folder / f"{name}_speed.py").write_text(textwrap.dedent(LIBRARY.format(peers=str(PEERS))))
    monkeypatch.setattr(sides, "PEERS", folder)
    monkeypatch.setattr(sides, "SIDES", {name: sides.Side(name) for name in ("one", "two")})
    pools = []

    def make(dtype="float32"):
        pools.append(sides.Pool("270m", dtype, 2, 0, {}, tmp_path))
        return pools[-1]

    yield make
    for made in pools:
        made.close()


def request(count):
    return {"measure": "cold", "prompt": 4, "count": count}


@needs_proc
def test_a_process_is_kept_and_outlives_a_failure_but_not_its_death(pool):
    pool = pool()
    assert pool.ask("one", request(3))["seconds"] >= 0
    process = pool.facts["one"]["process"]
    assert pool.ask("one", request(14)) == {"failed": "RuntimeError: can't"}
    pool.ask("one", request(3))
    assert pool.facts["one"]["process"] == process
    assert pool.ask("one", request(13)) == {"failed": "exit 1: no luck"}
    assert pool.ask("one", request(3))["seconds"] >= 0
    assert pool.facts["one"]["process"] != process
    assert len(pool.others) == 5


@needs_proc
def test_what_is_not_installed_is_named_and_not_started_again(pool, monkeypatch):
    pool = pool("bfloat16")
    found = {"failed": "not installed: there_is_no_such_library", "missing": True}
    assert pool.ask("one", request(3)) == found
    monkeypatch.setattr(pool, "_start", None)
    assert pool.ask("one", request(3)) == found


@needs_proc
def test_the_one_asked_last_makes_room_when_memory_is_short(pool, monkeypatch):
    import sides

    pool = pool()
    pool.ask("one", request(3))
    monkeypatch.setattr(sides, "available_memory", lambda: 0)
    pool.ask("two", request(3))
    assert list(pool.workers) == ["two"]


@needs_proc
def test_peak_memory_is_what_the_tiny_model_does_not_take(pool):
    import scenes

    found = scenes.SCENES["peak_memory"].run(pool := pool(), "one")
    assert found["bytes"] / 2**20 == pytest.approx(70, abs=8)
    assert found["of_weights"] == pytest.approx(found["bytes"] / pool.weight_bytes())


@needs_proc
def test_a_compilation_cache_is_shared_by_two_processes_and_no_others(pool, monkeypatch):
    import scenes

    pool, folders = pool(), []
    start = pool._start

    def started(*arguments):
        worker = start(*arguments)
        folders.append(worker.facts["folder"])
        return worker

    monkeypatch.setattr(pool, "_start", started)
    scenes.SCENES["cold_compiled"].run(pool, "one")
    scenes.SCENES["cold"].run(pool, "one")
    assert folders[0] == folders[1] != folders[2]


def test_ratios_are_medians_of_rounds_and_failures_stay_out():
    module = load("rounds")
    rounds = [
        {"keras_gemma/jax": {"r": 2.0}, "b": {"r": 1.0}, "c": {"r": 1.0}},
        {"keras_gemma/jax": {"r": 9.0}, "b": {"r": 3.0}, "c": {"failed": "no"}},
        {"keras_gemma/jax": {"r": 4.0}, "b": {"r": 1.0}, "c": {"failed": "no"}},
    ]
    found = module.summary(rounds, "r", more_is_better=True)
    assert found["times"] == {"keras_gemma/jax": {"b": 3.0}}
    assert found["sides"]["keras_gemma/jax"] == {"r": 4.0, "rounds": [2.0, 9.0, 4.0]}
    assert found["sides"]["c"] == {"failed": "no"}
    less = module.summary(rounds, "r", more_is_better=False)
    assert less["times"]["keras_gemma/jax"]["b"] == pytest.approx(1 / 3, abs=1e-4)


def test_a_failure_is_not_asked_again():
    module, scenes = load("rounds"), load("scenes")
    asked = []

    def run(pool, name):
        asked.append(name)
        return {"failed": "no"} if name == "b" else {"seconds": 1.0}

    found = module.measured(None, scenes.Scene("t", "seconds", run), ["a", "b"], rounds=3)
    assert asked == ["a", "b", "a", "a"]
    assert [answers["b"] for answers in found] == [{"failed": "no"}] * 3


def test_a_difference_that_drowns_in_noise_is_no_figure():
    module, scenes = load("rounds"), load("scenes")
    scene = scenes.Scene("t", "tokens_per_second", lambda pool, name: {"tokens_per_second": -3.0})
    found = module.measured(None, scene, ["a"], rounds=1)
    assert found == [{"a": {"failed": "too small to tell"}}]


def test_scenes_that_are_not_measured_stay_unless_the_machine_is_another(tmp_path):
    module = load("rounds")
    path, head = tmp_path / "r.json", {"processor": {"name": "A"}}
    order = ("decode_32", "decode_1000", "cold")
    module.write(path, head, {"decode_1000": {"n": 1}, "decode_32": {"n": 1}}, order)
    module.write(path, head, {"decode_32": {"n": 2}}, order)
    kept = {"decode_32": {"n": 2}, "decode_1000": {"n": 1}}
    assert json.loads(path.read_text())["scenes"] == kept
    module.write(path, {"processor": {"name": "B"}}, {"cold": {"n": 3}}, order)
    assert json.loads(path.read_text())["scenes"] == {"cold": {"n": 3}}


def test_patterns_choose_sides_and_every_scene_has_its_measure():
    import features
    import timing

    generation = load("generation")
    chosen = generation.arguments_of(["--sides", "*/jax", "llama*", "--python", "llama_cpp=/p"])
    assert "keras_hub/jax" in chosen.sides and "llama_cpp" in chosen.sides
    assert not [name for name in chosen.sides if "torch" in name or "pure" in name]
    assert chosen.python == {"llama_cpp": "/p"}
    asked = []

    class Spy:
        def ask(self, name, request, **_):
            asked.append(request["measure"])
            return {"tokens_per_second": 1.0, "seconds": 1.0, "bytes": 1}

        ask_afresh = ask

        def weight_bytes(self):
            return 1

    for scene in generation.SCENES.values():
        assert scene.figure in scene.run(Spy(), "a")
    assert {*asked, "training"} == set(timing.MEASURES) | set(features.FEATURES)


@pytest.fixture
def ours():
    """The tiny model's session, as its process has it."""
    import keras_gemma_speed
    import timing
    from shapes import SHAPES

    peer = keras_gemma_speed.Model("tiny", "float32", 1)
    return timing.Session(peer, time.process_time, SHAPES["tiny"]["vocabulary_size"])


def test_requests_in_slots_get_what_they_get_alone(ours):
    asked = [(ours.prompts(1, length)[0], count) for length, count in ((9, 4), (3, 7), (5, 2))]
    made = ours.peer.answer_all(asked, slots=2, gap=2)
    alone = [ours.peer.generate(ids[None], count, count)[0].tolist() for ids, count in asked]
    assert made == alone


def test_features_are_measured_and_leave_the_model_as_it_was(ours):
    import features

    ours.clock = (count**2 for count in itertools.count()).__next__  # each call takes longer
    ours.seconds(1, 8, 2, 2)
    history = features.second_turn(ours, history=60, message=4, answer=5)
    assert not ours.warm  # or the next scene would time a compilation
    assert 0 < history["seconds"] and 0 < history["of_anew"]
    bound = features.constrained(ours, prompt=8, short=2, long=20)
    assert 0 < bound["tokens_per_second"]
    model = ours.peer.model
    assert (model.draft, model.prefix_bytes, type(model.sampler).__name__) == (
        None,
        None,
        "GreedySampler",
    )
    assert not model.sampler.steps


def test_a_told_text_quotes_its_prompt_and_lookup_guesses_it(ours):
    import features

    from keras_gemma.generation import Request, Run
    from keras_gemma.samplers import GreedySampler

    prompt = ours.prompts(1, 160)[0].tolist()
    texts, steps = {}, {}
    for copied in (32, 0):
        sampler = GreedySampler(steps=[functools.partial(features.told, copied, 120)])
        for draft in (None, "prompt_lookup"):
            with ours.peer.compiled(draft=draft, sampler=sampler, prefix_bytes=0):
                run = Run(ours.peer.model._engine(), [Request(prompt, 241)])
                steps[copied, draft] = 0
                while run.is_running:
                    run.advance(1)
                    steps[copied, draft] += 1
            texts[copied, draft] = prompt + run.new_ids(0)
        assert texts[copied, None] == texts[copied, "prompt_lookup"]
        assert steps[copied, None] == 80
    text = texts[32, None]
    assert text[160:192] == text[40:72] and text[192:200] != text[72:80]
    assert steps[32, "prompt_lookup"] < 40
    assert steps[0, "prompt_lookup"] == 80


def test_a_step_reads_all_weights_and_each_rows_cache():
    gpu = load("gpu")
    sizes = gpu.architecture_of("gemma_2b_en")
    weights = 2 * 2_506_172_416
    assert gpu.step_bytes(sizes, 1, 0) == weights
    assert gpu.step_bytes(sizes, 8, 100) == weights + 8 * 100 * 18 * 2 * 256 * 2
    # Twice the parameters for a token, near enough, where attention is little.
    flops = gpu.prompt_flops(sizes, 1, 128)
    assert flops == pytest.approx(2 * (2_506_172_416 - 256_000 * 2048) * 128, rel=0.01)
    assert gpu.unfit(sizes, 64, 8192, gpu.PEAKS["H100"]) is None
    seven = gpu.architecture_of("gemma_7b_en")
    assert "of 80" in gpu.unfit(seven, 64, 8192, gpu.PEAKS["H100"])
    assert gpu.peak_of("NVIDIA H100 PCIe").bandwidth == 2.0e12
    assert gpu.peak_of("NVIDIA GH200 480GB") is None
