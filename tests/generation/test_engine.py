"""However a text is read, remembered and guessed, it is the text that a plain run makes."""

import keras
import numpy as np
import pytest
from conftest import SIZES, WINDOWED, close, loud, once_but

from keras_gemma import GemmaBackbone, GemmaCausalLM
from keras_gemma.arrays import nbytes
from keras_gemma.generation import DraftModel, Engine, PromptLookup, Request, Run, weights_for
from keras_gemma.generation.kv_cache import check_memory
from keras_gemma.samplers import GreedySampler, RandomSampler, Sampler, settings_of

RANDOM = np.random.default_rng(5)
PROMPTS = [RANDOM.integers(1, 96, length).tolist() for length in (3, 40, 17)]
NEW = 12


@pytest.fixture(scope="module")
def model():
    return GemmaCausalLM(loud(GemmaBackbone(**SIZES, **WINDOWED)))


def engine_of(model, sampler=None, **options):
    backbone = model.backbone
    weights = weights_for(backbone.stack, backbone.variables, use_plan=True)
    return Engine(weights, sampler or GreedySampler(), backbone.config, "float32", **options)


def requests(prompts, new=NEW, **keywords):
    return [Request(p, len(p) + new, seed=9 + i, **keywords) for i, p in enumerate(prompts)]


def texts(engine, prompts=PROMPTS, new=NEW, top=None, **keywords):
    run = Run(engine, requests(prompts, new, **keywords), top)
    while run.is_running:
        run.advance(100)
    ids = [run.new_ids(row) for row in range(len(prompts))]
    run.close()
    return ids


@pytest.fixture(scope="module")
def expected(model):
    return texts(engine_of(model))


@pytest.mark.parametrize("chunk", once_but([2, 5, 16, 24], 5))
def test_the_size_of_chunks_changes_nothing(model, expected, chunk):
    assert texts(engine_of(model, chunk=chunk)) == expected


def test_a_cache_grows_while_a_text_does(model, monkeypatch):
    whole = texts(engine_of(model), PROMPTS[:2], 60)
    monkeypatch.setattr("keras_gemma.generation.engine._FIRST_SLOTS", 4)
    assert texts(engine_of(model), PROMPTS[:2], 60) == whole


def test_a_prefix_is_read_once(model):
    engine = engine_of(model, prefix_bytes=2**24)
    first = texts(engine, [PROMPTS[1]])[0]
    assert engine.prefixes.nbytes > 0
    longer = [PROMPTS[1] + first + [7, 8, 9]]
    fresh = texts(engine_of(model), longer)
    known, _ = engine.prefixes.find(longer[0])
    assert known == len(PROMPTS[1] + first) - 1  # the last one was never read
    assert texts(engine, longer) == fresh


@pytest.mark.once
def test_a_shorter_prefix_of_a_text_serves_too(model):
    engine = engine_of(model, prefix_bytes=2**24)
    texts(engine, [PROMPTS[1]])
    turned = [PROMPTS[1][:30] + [1, 2, 3]]
    assert texts(engine, turned) == texts(engine_of(model), turned)


@pytest.mark.once
def test_rows_that_begin_alike_read_their_beginning_once(model):
    prompts = [PROMPTS[1] + more for more in ([5], [6, 7, 8], [9, 9])]
    engine = engine_of(model, prefix_bytes=2**24)
    assert texts(engine, prompts) == texts(engine_of(model), prompts)


def test_new_weights_forget_what_old_ones_read(model):
    other = GemmaCausalLM(loud(GemmaBackbone(**SIZES, **WINDOWED)))
    engine = engine_of(other, prefix_bytes=2**24)
    texts(engine, [PROMPTS[1]])
    loud(other.backbone, seed=11)
    assert texts(engine, [PROMPTS[1]]) == texts(engine_of(other), [PROMPTS[1]])


@pytest.mark.once
def test_the_memory_of_prefixes_is_bounded_and_the_oldest_goes(model):
    engine = engine_of(model, prefix_bytes=2**24)
    texts(engine, [PROMPTS[1]])
    most = engine.prefixes.nbytes * 5 // 4
    engine = engine_of(model, prefix_bytes=most)
    made = []
    for prompt in PROMPTS:
        made.append(prompt + texts(engine, [prompt])[0])
        assert engine.prefixes.nbytes <= most
    assert engine.prefixes.find(made[0])[0] == 0 < engine.prefixes.find(made[2])[0]


def test_an_int8_cache_is_near_and_a_quarter_of_the_size(model):
    full, small = engine_of(model), engine_of(model, cache="int8")
    found = []
    for engine in (full, small):
        state = engine.start(requests(PROMPTS, 4), top=96)
        parts = [keras.ops.convert_to_numpy(part) for part in state.records[1:]]
        log_probs = np.zeros((len(PROMPTS), 96))
        for row, prompt in enumerate(PROMPTS):
            ids, values = (part[row, len(prompt)] for part in parts)
            log_probs[row, ids] = values
        found.append(log_probs)
    # Keys are rounded to one part in 254 of each head's largest, and scores are above 50 here, so
    # that they move by some tenths.
    close(found[1], found[0], 5e-2)
    assert np.abs(found[1] - found[0]).max() > 0
    sizes = [sum(nbytes(c.keys) for c in engine.empty(1, 64)) for engine in (full, small)]
    assert sizes[1] * 4 == sizes[0]


def test_log_probs_are_those_of_the_whole_text(model):
    run = Run(engine_of(model), requests(PROMPTS), top=3)
    while run.is_running:
        run.advance(5)
    for row, prompt in enumerate(PROMPTS):
        ids = run.new_ids(row)
        text = np.array([prompt + ids], "int32")
        logits = keras.ops.convert_to_numpy(model.score(text))[0]
        log_probs = logits - np.log(np.exp(logits.astype("float64")).sum(-1, keepdims=True))
        for place, found in enumerate(run.log_probs(row)):
            there = log_probs[len(prompt) + place - 1]
            assert found.token_id == ids[place] == found.top[0][0]
            np.testing.assert_allclose(found.log_prob, there[ids[place]], atol=2e-4)
            best = np.sort(there)[::-1][:3]
            np.testing.assert_allclose([p for _, p in found.top], best, atol=2e-4)


SAMPLERS = [GreedySampler(), RandomSampler()]


@pytest.mark.parametrize("sampler", once_but(SAMPLERS, SAMPLERS[1]), ids=["greedy", "random"])
def test_prompt_lookup_changes_no_text(model, sampler):
    prompts = [PROMPTS[0] * 9, PROMPTS[1], [4, 5] * 11]
    plain = texts(engine_of(model, sampler), prompts, 30)
    lookup = engine_of(model, sampler, draft=PromptLookup(length=5, match=2))
    assert texts(lookup, prompts, 30) == plain


@pytest.mark.once
def test_a_repeated_text_takes_fewer_steps(model):
    again = [5, 6, 7, 8, 9] * 8
    sampler, steps = Sampler(temperature=0, forced_tokens=again), {}
    for name, draft in (("plain", None), ("lookup", PromptLookup(length=7, match=3))):
        run = Run(engine_of(model, sampler, draft=draft), requests([[3, *again[:10]]], 40))
        steps[name] = 0
        while run.is_running:
            run.advance(1)
            steps[name] += 1
        assert run.new_ids(0) == again
    assert steps["plain"] == 39 and steps["lookup"] == 5  # eight tokens each


@pytest.mark.parametrize(
    "same", once_but([True, False], False), ids=["the model itself", "another"]
)
def test_a_draft_model_changes_no_text(model, expected, same):
    small = model if same else GemmaCausalLM(loud(GemmaBackbone(**SIZES), seed=3))
    stack, variables = small.backbone.stack, small.backbone.variables
    draft = DraftModel(weights_for(stack, variables, True), stack.config, "float32", 3)
    engine = engine_of(model, draft=draft)
    run = Run(engine, requests(PROMPTS))
    steps = 0
    while run.is_running:
        run.advance(1)
        steps += 1
    assert [run.new_ids(row) for row in range(3)] == expected
    assert not same or steps == 3  # after the first token, three rounds of four


@pytest.mark.once
def test_stop_ids_and_limits_hold_within_a_draft(model, expected):
    stop = expected[1][5]
    engine = engine_of(model, draft=PromptLookup(length=7, match=1))
    found = texts(engine, stop_ids=frozenset({stop}))
    for row, ids in enumerate(expected):
        whole = ids[: ids.index(stop) + 1] if stop in ids else ids
        assert found[row] == whole


@pytest.mark.once
def test_rows_have_their_own_numbers(model):
    greedy, drawn = settings_of(GreedySampler()), settings_of(RandomSampler())
    rows = [
        Request(PROMPTS[0], 20, seed=1, settings=greedy),
        Request(PROMPTS[0], 20, seed=1, settings=drawn),
    ]
    run = Run(engine_of(model, Sampler()), rows)
    while run.is_running:
        run.advance(50)
    alone = Run(engine_of(model, RandomSampler()), [Request(PROMPTS[0], 20, seed=1)])
    while alone.is_running:
        alone.advance(50)
    assert run.new_ids(0) == texts(engine_of(model), [PROMPTS[0]], 17)[0]
    assert run.new_ids(1) == alone.new_ids(0)


def test_caches_beyond_the_memory_are_told_of(model):
    config = model.backbone.config
    check_memory(config, 1, 1000, "float32", "full", 10**9)
    with pytest.raises(MemoryError, match=r"texts of \d+ tokens would fit"):
        check_memory(config, 8, 10**6, "float32", "full", 10**8)


def test_a_draft_that_is_too_long_is_told_of():
    with pytest.raises(ValueError, match="from 1 to 8"):
        PromptLookup(length=9)
    with pytest.raises(ValueError, match="match must be at least 1"):
        PromptLookup(match=0)
