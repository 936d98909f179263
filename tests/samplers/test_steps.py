"""What changes logits, against Transformers and by hand."""

import numpy as np
import pytest
from keras import ops
from sampler_examples import WIDTH, adjusted, context, different_logits, drawn, logits

from keras_gemma.samplers import NO_TOKEN, GreedySampler, RandomSampler, Sampler

IDS = [[3, 3, 5, 0, 7, 7], [1, 2, 9, 9, 4, 4]]
LENGTHS = [3, 6]
PROMPTS = [1, 4]


def texts():
    """Two texts of unlike length; what comes after their ends must not count."""
    given = context(2, ids=IDS)
    lengths, prompts = (ops.convert_to_tensor(np.array(x, "int32")) for x in (LENGTHS, PROMPTS))
    return given._replace(lengths=lengths, prompt_lengths=prompts)


def answers():
    """The ids of both answers, in NumPy."""
    return [row[start:end] for row, start, end in zip(IDS, PROMPTS, LENGTHS)]


@pytest.mark.parametrize("penalty", [1.3, 0.8, [1.3, 0.8]])
def test_repetition_is_penalized_as_in_transformers(penalty):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    rows = different_logits(2)
    got = adjusted(Sampler(repetition_penalty=penalty), rows, texts())
    for i, length in enumerate(LENGTHS):
        process = transformers.RepetitionPenaltyLogitsProcessor(
            penalty[i] if isinstance(penalty, list) else penalty
        )
        ids = torch.tensor([IDS[i][:length]], dtype=torch.long)
        expected = process(ids, torch.tensor(rows[i : i + 1]))[0].numpy()
        np.testing.assert_allclose(got[i], expected, rtol=1e-6)


@pytest.mark.parametrize("presence, frequency", [(0.5, 0.0), (0.0, 0.25), (-0.5, 1.5)])
def test_presence_and_frequency_count_the_answer_only(presence, frequency):
    rows = different_logits(2)
    sampler = Sampler(presence_penalty=presence, frequency_penalty=frequency)
    expected = rows.astype("float64").copy()
    for row, ids in zip(expected, answers()):
        for token in set(ids):
            row[token] -= presence + frequency * ids.count(token)
    np.testing.assert_allclose(adjusted(sampler, rows, texts()), expected, rtol=1e-6)


def test_penalties_may_differ_by_row():
    rows = different_logits(2)
    sampler = Sampler(presence_penalty=[1.0, 0.0], frequency_penalty=[0.0, 0.5])
    got = rows - adjusted(sampler, rows, texts())
    expected = np.zeros_like(rows)
    expected[0, [3, 5]] = 1.0
    expected[1, 4] = 1.0  # twice
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_biases_and_bans_are_those_of_transformers():
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    rows = different_logits(2)
    sampler = Sampler(logit_bias={3: 1.5, 7: -2.0}, banned_tokens=[0, 11])
    ids = torch.zeros((2, 1), dtype=torch.long)
    expected = transformers.SequenceBiasLogitsProcessor([[[3], 1.5], [[7], -2.0]])(
        ids, torch.tensor(rows)
    )
    expected = transformers.SuppressTokensLogitsProcessor([0, 11])(ids, expected).numpy()
    np.testing.assert_allclose(adjusted(sampler, rows, texts()), expected, rtol=1e-6)


def test_a_bias_may_differ_by_row():
    rows = np.zeros((2, WIDTH), "float32")
    got = adjusted(Sampler(logit_bias={3: [1.0, -np.inf], 4: 2.0}), rows, texts())
    assert got[:, 3].tolist() == [1.0, -np.inf]
    assert got[:, 4].tolist() == [2.0, 2.0]
    assert np.count_nonzero(got) == 4


def test_the_order_is_bias_penalties_steps_forced():
    def halved(logits, context):
        return logits / 2

    sampler = Sampler(
        logit_bias={3: 1.0},
        repetition_penalty=2.0,
        presence_penalty=0.25,
        steps=[halved],
        forced_tokens=[None, None, 6],
    )
    got = adjusted(sampler, np.ones((2, WIDTH), "float32"), texts())
    assert got[0, 6] == 0.0 and np.isneginf(np.delete(got[0], 6)).all()
    given = texts()._replace(prompt_lengths=texts().lengths - 1)
    free = adjusted(sampler, np.ones((2, WIDTH), "float32"), given)
    assert free[0, 3] == ((1 + 1.0) / 2.0) / 2  # of the prompt: repetition, not presence
    assert free[0, 5] == (1 / 2.0 - 0.25) / 2  # of the answer: both


@pytest.mark.parametrize(
    "forced, expected",
    [([5, 7], [5, 7, None]), ({1: 7}, [None, 7, None]), ([None, 7], [None, 7, None])],
)
@pytest.mark.parametrize("sampler", [GreedySampler, RandomSampler])
def test_an_answer_begins_with_the_forced_tokens(sampler, forced, expected):
    rows = different_logits(3)
    free = drawn(sampler(), rows, context(3, length=4))
    for place, token in enumerate(expected):
        given = context(3, length=4, prompt=4 - place)
        got = drawn(sampler(forced_tokens=forced), rows, given)
        assert got.tolist() == ([token] * 3 if token is not None else free.tolist())


def test_rows_reach_their_forced_tokens_at_their_own_places():
    given = context(3, length=4)._replace(
        prompt_lengths=ops.convert_to_tensor(np.array([4, 3, 2], "int32"))
    )
    got = drawn(GreedySampler(forced_tokens=[5, 7]), logits(3), given)
    assert got.tolist() == [5, 7, logits()[0].argmax()]


def test_a_function_of_ones_own_sees_the_texts():
    def forbid_last(logits, context):
        last = ops.take_along_axis(context.token_ids, context.lengths[:, None] - 1, axis=1)
        return ops.where(ops.arange(logits.shape[-1])[None] == last, -1e9, logits)

    rows = different_logits(2)
    best = rows.argmax(-1)
    given = context(2, ids=np.repeat(best[:, None], 4, axis=1))
    got = drawn(GreedySampler(steps=[forbid_last]), rows, given)
    assert got.tolist() == np.argsort(-rows, axis=-1)[:, 1].tolist()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_row_that_a_step_spoils_gets_no_token(value):
    def spoil(logits, context):
        return ops.where(ops.equal(context.seeds, 1)[:, None], value, logits)

    rows = different_logits(3)
    for sampler in (GreedySampler(steps=[spoil]), RandomSampler(steps=[spoil])):
        got = drawn(sampler, rows).tolist()
        assert got[1] == NO_TOKEN
        assert all(0 <= token < WIDTH for token in (got[0], got[2]))


def test_a_row_that_a_step_bans_wholly_gets_no_token():
    sampler = RandomSampler(steps=[lambda logits, context: logits - np.inf])
    assert drawn(sampler, logits(2)).tolist() == [NO_TOKEN] * 2


@pytest.mark.parametrize(
    "step, came",
    [
        (lambda logits, context: logits[:, :5], r"shape \(2, 5\)"),
        (lambda logits, context: logits[0], r"shape \(12,\)"),
        (lambda logits, context: None, "NoneType"),
    ],
)
def test_a_step_that_returns_another_shape_is_told(step, came):
    for use in (
        lambda sampler: drawn(sampler, logits(2)),
        lambda sampler: sampler.check(WIDTH),
    ):
        with pytest.raises(ValueError, match=f"step <lambda> returned {came}.*= \\(2, 12\\)"):
            use(Sampler(steps=[step]))


@pytest.mark.parametrize(
    "step",
    [
        lambda logits, context: ops.log(logits),
        lambda logits, context: ops.where(logits > 0, np.inf, logits),
        lambda logits, context: ops.full_like(logits, -np.inf),
    ],
)
def test_a_check_tells_of_a_step_that_makes_no_numbers(step):
    with pytest.raises(ValueError, match="step <lambda> makes logits of NaN, of plus infinity"):
        Sampler(steps=[step]).check(WIDTH)


def test_a_check_passes_what_can_work():
    sampler = Sampler(
        temperature=[1.0, 0.5, 0.2],
        banned_tokens=[3],
        forced_tokens=[1],
        steps=[lambda logits, context: logits - ops.max(logits, axis=-1, keepdims=True)],
    )
    sampler.check(WIDTH)


@pytest.mark.parametrize("option", ["presence_penalty", "frequency_penalty", "forced_tokens"])
def test_what_counts_the_answer_needs_to_know_where_it_begins(option):
    sampler = Sampler(**{option: [1] if option == "forced_tokens" else 0.5})
    with pytest.raises(ValueError, match="counts from where the answer begins"):
        drawn(sampler, logits(), context(1)._replace(prompt_lengths=None))
