"""Whoever shares the batch, and whenever they come and go, a request gets the text it gets alone."""

import numpy as np
import pytest
from conftest import SIZES, WINDOWED, loud

from keras_gemma import GemmaBackbone, GemmaCausalLM
from keras_gemma.generation import Engine, Request, Run, SlotBatch, weights_for
from keras_gemma.samplers import GreedySampler, RandomSampler, Sampler, TopPSampler, settings_of

LENGTH = 48
SAMPLERS = [GreedySampler(), RandomSampler(), TopPSampler(0.8, temperature=0.5)]


@pytest.fixture(scope="module")
def engine():
    backbone = GemmaCausalLM(loud(GemmaBackbone(**SIZES, **WINDOWED))).backbone
    weights = weights_for(backbone.stack, backbone.variables, use_plan=True)
    return Engine(weights, Sampler(), backbone.config, "float32", chunk=16)


def request(random, **keywords):
    prompt = random.integers(1, 96, int(random.integers(1, 30))).tolist()
    limit = len(prompt) + int(random.integers(1, LENGTH - len(prompt)))
    sampler = SAMPLERS[int(random.integers(len(SAMPLERS)))]
    return Request(
        prompt,
        limit,
        frozenset(random.integers(1, 96, 2).tolist()),
        int(random.integers(2**31)),
        settings_of(sampler),
        **keywords,
    )


def alone(engine, one):
    run = Run(engine, [one])
    while run.is_running:
        run.advance(LENGTH)
    return run.new_ids(0)


def schedule(engine, random, requests, cancelled=()):
    """Let requests come at random moments; returns what each got."""
    batch = SlotBatch(engine, 3, LENGTH, settings_of(GreedySampler()))
    coming, tickets = list(enumerate(requests)), {}
    while coming or batch.is_busy:
        if coming and random.random() < 0.4:
            place, one = coming.pop(0)
            tickets[place] = batch.submit(one)
        batch.step(int(random.integers(1, 4)))
        for place in cancelled:
            if place in tickets and random.random() < 0.3:
                batch.cancel(tickets[place])
    return [tickets[place] for place in range(len(requests))]


def check(engine, seed, count):
    random = np.random.default_rng(seed)
    requests = [request(random) for _ in range(count)]
    expected = [alone(engine, one) for one in requests]
    cancelled = {int(place) for place in random.integers(0, count, count // 4)}
    found = schedule(engine, random, requests, cancelled)
    for place, (ticket, ids) in enumerate(zip(found, expected)):
        if ticket.finish_reason == "cancelled":
            assert place in cancelled and ticket.ids == ids[: len(ticket.ids)]
        else:
            assert ticket.ids == ids
            stopped = ids[-1] in ticket.request.stop_ids
            assert ticket.finish_reason == ("stop" if stopped else "length")


def test_a_random_schedule(engine):
    check(engine, 0, 12)


@pytest.mark.slow
def test_a_thousand_random_schedules(engine):
    for seed in range(1000):
        check(engine, 100 + seed, 6)


@pytest.mark.once
def test_a_long_prompt_holds_up_nobody_for_longer_than_a_chunk(engine):
    batch = SlotBatch(engine, 2, LENGTH)
    short = batch.submit(Request([5, 6], 40))
    batch.step()
    batch.submit(Request(list(range(1, 45)), 47))  # three chunks
    for _ in range(3):
        before = len(short.ids)
        batch.step()
        assert len(short.ids) == before + 1


def test_a_cancelled_request_frees_its_slot_within_a_round(engine):
    batch = SlotBatch(engine, 1, LENGTH)
    first, second = batch.submit(Request([5], 40)), batch.submit(Request([7, 8], 12))
    batch.step()
    assert first.ids and not second.ids
    batch.cancel(first)
    batch.step()
    assert first.finish_reason == "cancelled" and second.ids
    batch.cancel(second)
    batch.cancel(second)
    assert not batch.is_busy


def test_what_does_not_fit_is_told(engine):
    batch = SlotBatch(engine, 1, LENGTH, {"temperature": 0.0})
    with pytest.raises(ValueError, match="46 new tokens do"):
        batch.submit(Request([1, 2], 60))
    with pytest.raises(ValueError, match="has no top_p that a request could set"):
        batch.submit(Request([1, 2], 20, settings={"top_p": 0.5}))
    with pytest.raises(ValueError, match="slots must be at least 1"):
        SlotBatch(engine, 0, LENGTH)
    assert batch.submit(Request([1, 2], 2)).finish_reason == "length"
