"""What `fit` takes, what it says of it, and that nothing is lost on the way without a word."""

import json
import warnings

import keras
import numpy as np
import pytest
from conftest import SIZES, close

from keras_gemma import GemmaBackbone, GemmaCausalLM, GemmaCausalLMPreprocessor
from keras_gemma.data import prepared_rows, read
from keras_gemma.data.prepared_rows import PreparedRows
from keras_gemma.models.fit_data import to_batches

TEXTS = ["The cat sat.", "A dog ran away.", "Birds sing in the morning.", "Rain.", "It is late."]
PAIRS = [{"prompt": f"{n}?", "completion": f"It is {n}."} for n in range(5)]
LONG = "a long text that goes on and on and on and on and on and on and on"


def talk(answer, weight=None, question="Hi"):
    said = {"role": "assistant", "content": answer}
    said |= {} if weight is None else {"weight": weight}
    return {"messages": [{"role": "user", "content": question}, said]}


TALKS = [talk("Hello there"), talk("It is late.", question="When?"), talk("1 2 3")]


def make(tokenizer, length=24, learning_rate=1.0, **options):
    keras.utils.set_random_seed(0)
    sizes = {**SIZES, "vocabulary_size": tokenizer.vocabulary_size(), "num_layers": 1}
    preprocessor = GemmaCausalLMPreprocessor(tokenizer, length, **options)
    model = GemmaCausalLM(GemmaBackbone(**sizes), preprocessor)
    model.compile(keras.optimizers.SGD(learning_rate))
    return model


def labels_in(batches):
    """The labels that count, of all batches, sorted."""
    found = [
        np.asarray(y)[np.asarray(weights) > 0]
        for _, y, weights in getattr(batches, "data", batches)
    ]
    return sorted(np.concatenate(found).tolist())


# --- kinds of data ---


def in_batches(rows, size=2):
    return [rows[at : at + size] for at in range(0, len(rows), size)]


def columns(rows):
    return {name: [row[name] for row in rows] for name in rows[0]}


class Again:
    """What can be gone through again and again, and has no length: a data loader."""

    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


STREAMS = {
    "texts": lambda: (text for text in TEXTS),
    "batches of texts": lambda: (np.array(batch) for batch in in_batches(TEXTS)),
    "records": lambda: iter(PAIRS),
    "batches in columns": lambda: (columns(batch) for batch in in_batches(PAIRS)),
    "batches of records": lambda: iter(in_batches(PAIRS)),
    "conversations": lambda: iter(TALKS),
    "batches of conversations": lambda: (columns(batch) for batch in in_batches(TALKS)),
    "a loader": lambda: Again(in_batches(TEXTS)),
}


@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_holds_what_a_list_holds(kind, tokenizer):
    rows = PAIRS if "record" in kind or "columns" in kind else TALKS if "conv" in kind else TEXTS
    preprocessor = GemmaCausalLMPreprocessor(tokenizer, 24)
    awaited = labels_in(to_batches(rows, preprocessor, 2))
    assert awaited and labels_in(to_batches(STREAMS[kind](), preprocessor)) == awaited
    assert (
        labels_in(to_batches(STREAMS[kind](), preprocessor, 2, steps=3)) == awaited
        if ("loader" not in kind)
        else True
    )


def test_a_stream_is_trained_on_for_several_epochs_or_as_it_comes(tokenizer):
    model = make(tokenizer, learning_rate=0.1)
    history = model.fit((text for text in TEXTS), batch_size=2, epochs=3, verbose=0).history
    assert history["loss"][2] < history["loss"][0]
    assert model.data_report.documents == 5

    def endless():
        while True:
            yield from TEXTS

    history = model.fit(endless(), batch_size=2, epochs=3, steps_per_epoch=2, verbose=0).history
    assert len(history["loss"]) == 3 and history["loss"][2] < history["loss"][0]
    model.fit(Again(TEXTS), batch_size=4, epochs=2, steps_per_epoch=3, verbose=0)


def test_grain_data_sets_are_taken(tokenizer):
    grain = pytest.importorskip("grain", reason="grain is not installed")
    preprocessor = GemmaCausalLMPreprocessor(tokenizer, 24)
    awaited = labels_in(to_batches(TEXTS, preprocessor))
    texts = grain.MapDataset.source(TEXTS).shuffle(seed=1)
    for data in (texts, texts.batch(2), texts.to_iter_dataset(), texts.batch(2).to_iter_dataset()):
        assert labels_in(to_batches(data, preprocessor)) == awaited
    records = grain.MapDataset.source(PAIRS)
    assert labels_in(to_batches(records, preprocessor)) == labels_in(
        to_batches(PAIRS, preprocessor)
    )


def test_a_data_set_of_datasets_is_taken(tokenizer):
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    preprocessor = GemmaCausalLMPreprocessor(tokenizer, 24)
    data = datasets.Dataset.from_dict(columns(PAIRS))
    assert labels_in(to_batches(data, preprocessor)) == labels_in(to_batches(PAIRS, preprocessor))


def test_integers_of_a_generator_pass_as_they_are(tokenizer):
    model = make(tokenizer)
    batch = model.preprocessor(TEXTS)
    loss = model.fit((b for b in [batch]), steps_per_epoch=1, verbose=0).history["loss"]
    assert np.isfinite(loss).all()


def test_files_are_taken_by_path_and_split(tokenizer, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    model = make(tokenizer)
    history = model.fit(path, validation_split=0.4, verbose=0).history
    assert "val_loss" in history and model.data_report.documents == 3
    preprocessor = model.preprocessor
    awaited = labels_in(to_batches(PAIRS, preprocessor))
    assert labels_in(to_batches(read(path), preprocessor)) == awaited


def test_an_empty_stream_is_said_to_be_empty(tokenizer):
    with pytest.raises(ValueError, match="nothing to train on: the list_iterator is empty"):
        make(tokenizer).fit(iter([]))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([*TALKS, {"messages": [{"role": "bot", "content": "a"}]}], "data:3: .*role 'bot'"),
        ({"prompts": ["a", "b"], "responses": ["c", ""]}, "data:1: 'responses' is empty"),
        (iter([*PAIRS, {"prompt": "a"}]), "Row 5 of the stream: found the fields"),
        (iter([*PAIRS, "text"]), "Row 5 of the stream: a text, where those before"),
        (["a", 3], "data:1: a row must be an object or a text, not int"),
    ],
)
def test_a_wrong_row_is_refused_before_the_first_step(data, says, tokenizer):
    model = make(tokenizer)
    before = model.get_weights()
    with pytest.raises(ValueError, match=says):
        model.fit(data, verbose=0)
    assert all((a == b).all() for a, b in zip(before, model.get_weights()))


# --- what is too long ---


def test_too_long_is_cut_split_dropped_or_refused_and_counted(tokenizer):
    counts = {}
    for policy in ("cut", "split", "drop"):
        for pack in (False, True):
            preprocessor = GemmaCausalLMPreprocessor(tokenizer, 24, pack=pack, too_long=policy)
            batches = to_batches([*TEXTS, LONG], preprocessor, 4)
            report = batches.report
            counts[policy, pack] = len(labels_in(batches))
            assert report.labels == counts[policy, pack] and report.documents == 6
            assert (report.cut, report.split, report.dropped) == tuple(
                int(policy == name) for name in ("cut", "split", "drop")
            )
            assert len(report.examples) == 1 and report.examples[0].startswith("document 5: ")
    whole = GemmaCausalLMPreprocessor(tokenizer, 200)
    tokens = len(labels_in(to_batches([*TEXTS, LONG], whole)))
    without = len(labels_in(to_batches(TEXTS, whole)))
    for pack in (False, True):
        assert counts["split", pack] == tokens
        assert counts["cut", pack] == without + 24
        assert counts["drop", pack] == without
    refusing = GemmaCausalLMPreprocessor(tokenizer, 24, too_long="error")
    with pytest.raises(ValueError, match="Document 5: .* tokens, and a row takes 25"):
        to_batches([*TEXTS, LONG], refusing)
    with pytest.raises(ValueError, match="too_long must be one of cut, split, drop, error"):
        GemmaCausalLMPreprocessor(tokenizer, too_long="shorten")


def test_what_is_lost_is_warned_of_once_a_fit(tokenizer):
    model = make(tokenizer)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model.fit([*TEXTS, LONG, LONG], batch_size=2, epochs=2, verbose=0)
    told = [str(w.message) for w in told if "documents" in str(w.message)]
    assert len(told) == 1 and told[0].startswith("2 of 7 documents were longer than a row and")
    assert model.data_report.cut == 2
    share = model.data_report.lost_tokens / model.data_report.all_tokens
    assert 0 < share < 1 and f"({share:.1%} of all tokens" in told[0]


class Strings(keras.utils.PyDataset):
    num_batches = 3

    def __getitem__(self, index):
        return np.array([TEXTS[index], LONG])


def test_a_py_dataset_and_tf_data_warn_too(tokenizer):
    model = make(tokenizer)
    at_once = pytest.warns(UserWarning, match="1 of 2 documents were longer than a row")
    at_end = pytest.warns(UserWarning, match="3 of 6 documents were longer than a row")
    with at_end, at_once:
        model.fit(Strings(), epochs=2, verbose=0)
    assert (model.data_report.documents, model.data_report.cut) == (6, 3)
    pytest.importorskip("tensorflow_text", reason="tensorflow-text is not installed")
    import tensorflow

    data = tensorflow.data.Dataset.from_tensor_slices([*TEXTS, LONG]).batch(6)
    with pytest.warns(UserWarning, match="1 of the 6 texts of a batch were longer than a row"):
        model.fit(data, verbose=0)
    model.preprocessor.too_long = "drop"
    with pytest.raises(ValueError, match="In tf.data"):
        model.fit(data, verbose=0)


@pytest.mark.once
def test_a_row_of_ten_megabytes_is_cut_and_counted(tokenizer, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "a cat " * 1_700_000}) + '\n{"text": "a cat"}\n')
    rows = PreparedRows(read(path), GemmaCausalLMPreprocessor(tokenizer, 24))
    assert len(rows) == 2 and rows.report.cut == 1
    assert rows.report.lost_tokens > 1_000_000


# --- what counts ---


def test_data_without_anything_to_learn_from_is_refused(tokenizer):
    model = make(tokenizer)
    model.preprocessor.too_long = "drop"
    with pytest.raises(ValueError, match="None of 2 documents .*: 2 are longer .* were dropped"):
        model.fit([LONG, LONG], verbose=0)
    model.preprocessor.too_long = None
    long = talk("yes", question=LONG)
    with pytest.raises(ValueError, match="2 are longer than a row and lost what the model says"):
        model.fit([long, long], verbose=0)
    with pytest.raises(ValueError, match="0/0"):
        model.fit([talk("Hello", weight=0)], verbose=0)


def test_a_batch_without_labels_adds_nothing(tokenizer):
    model = make(tokenizer, 64)
    before = model.get_weights()
    x, y, weights = model.preprocessor(TEXTS[:2])
    history = model.fit(x, y, sample_weight=0 * weights, batch_size=2, verbose=0).history
    assert history["loss"] == [0.0] and np.isfinite(history["perplexity"]).all()
    assert all((a == b).all() for a, b in zip(before, model.get_weights()))
    silent = [talk("Hello", weight=0), talk("Hi there")]
    with pytest.warns(UserWarning, match="1 of 2 documents have no token that the loss counts"):
        history = model.fit(silent, batch_size=1, shuffle=False, verbose=0).history
    assert np.isfinite(history["loss"]).all()


@pytest.mark.filterwarnings("ignore:1 of 2 documents have no token")
def test_a_turn_counts_by_its_weight(tokenizer):
    model = make(tokenizer, 64)

    def loss(data):
        return model.evaluate(data, batch_size=4, verbose=0, return_dict=True)["loss"]

    one, two = (to_batches([talk], model.preprocessor).report.labels for talk in TALKS[:2])
    alone = [loss([talk]) for talk in TALKS[:2]]
    for weight in (0, 0.5, 1, 3):
        weighted = {"messages": [TALKS[1]["messages"][0], {**TALKS[1]["messages"][1]}]}
        weighted["messages"][1]["weight"] = weight
        awaited = (one * alone[0] + weight * two * alone[1]) / (one + weight * two)
        close(loss([TALKS[0], weighted]), awaited, 1e-5)


# --- packing ---


@pytest.mark.parametrize("data", [TEXTS, PAIRS, TALKS], ids=["texts", "pairs", "talks"])
def test_packed_rows_give_the_loss_and_the_gradients_of_rows_alone(data, tokenizer):
    found = []
    for pack in (False, True):
        model = make(tokenizer, 64, pack=pack)
        before = model.get_weights()
        history = model.fit(data, batch_size=8, verbose=0).history  # one step
        assert model.data_report.rows == (len(data) if not pack else model.data_report.rows)
        gradients = [b - a for b, a in zip(before, model.get_weights())]  # the rate is 1
        found.append((history["loss"][0], gradients, model.data_report))
    (loss, gradients, report), (packed_loss, packed_gradients, packed_report) = found
    assert packed_report.rows < report.rows and packed_report.fill > report.fill
    close(packed_loss, loss, 1e-5)
    largest = max(np.abs(gradient).max() for gradient in gradients)
    assert largest > 1e-3
    for gradient, packed in zip(gradients, packed_gradients):
        assert np.abs(gradient - packed).max() <= 1e-5 * largest


def test_many_windows_hold_every_label_and_rows_come_back_from_the_disk(tokenizer, monkeypatch):
    texts = [f"{text} {number}" for number in range(40) for text in TEXTS]
    preprocessor = GemmaCausalLMPreprocessor(tokenizer, 40, pack=True)
    at_once = PreparedRows(texts, preprocessor)
    monkeypatch.setattr(prepared_rows, "DOCUMENTS_AT_ONCE", 7)
    monkeypatch.setattr(prepared_rows, "ROWS_AT_ONCE", 3)
    monkeypatch.setattr(prepared_rows, "MOST_IN_MEMORY", 100)
    in_windows, again = (PreparedRows(texts, preprocessor) for _ in range(2))
    assert labels_in([at_once[:]]) == labels_in([in_windows[:]])
    assert in_windows.report.labels == at_once.report.labels == len(labels_in([at_once[:]]))
    assert all(
        (a == b).all()
        for a, b in zip(in_windows.packed(slice(None)), again.packed(range(len(again))))
    )
    order = np.random.default_rng(0).permutation(len(in_windows))
    for a, b in zip(in_windows.packed(order), in_windows.packed(slice(None))):
        assert (a == b[order]).all()
    inputs, _, _ = in_windows[:]
    assert in_windows.report.fill == (inputs["padding_mask"] > 0).mean()
    assert at_once.report.fill > 0.8  # texts are short: 40 tokens hold three of them


def test_the_report_says_all_in_figures(tokenizer, tmp_path):
    """Fault 23: a file with all that can be wrong with it is trained on, and what is not is said."""
    path = tmp_path / "a.jsonl"
    rows = [json.dumps(row).encode() for row in [*TALKS, talk("yes", question=LONG)]]
    rows += [b"{", b"\xff", b'{"text": "a"}', json.dumps(talk("")).encode()]
    rows += [json.dumps({"messages": []}).encode(), json.dumps(talk("masked", weight=0)).encode()]
    path.write_bytes(b"\xef\xbb\xbf" + b"\n".join(rows))
    with pytest.raises(ValueError, match="a.jsonl:5: not JSON"):
        read(path)
    model = make(tokenizer, 30)
    records = read(path, skip_bad=True)
    with pytest.warns(UserWarning, match="5 of 10 documents were wrong and were skipped"):
        history = model.fit(records, batch_size=1, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    report = model.data_report
    assert (report.documents, report.skipped, report.cut, report.unlabelled) == (5, 5, 1, 2)
    assert str(report).startswith("5 documents in 5 rows of 30 tokens, ")
