"""Files of people: every row checked, every error with its place."""

import csv
import json
import time
import tracemalloc

import numpy as np
import pytest

from keras_gemma.data import read, row_files

pytestmark = pytest.mark.once

TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
ROWS = {
    "text": ["One.", 'Two\nlines, and "quotes"', "Drei, vier: füñf 六"],
    "pair": [{"prompts": f"{n}?", "responses": f"It is {n}."} for n in range(3)],
    "conversation": [{"messages": TALK}, {"messages": [{"role": "system", "content": "x"}, *TALK]}],
}
PAIR = '{"prompt": "a", "response": "b"}'


def lines(path, *rows):
    """A file of these lines, given as text, as bytes, or as what JSON is made of."""
    made = [
        r if isinstance(r, bytes) else r.encode() if isinstance(r, str) else json.dumps(r).encode()
        for r in rows
    ]
    path.write_bytes(b"\n".join(made) + b"\n")
    return path


def with_names(row):
    return {"text": row} if isinstance(row, str) else row


# --- kinds of files ---


@pytest.mark.parametrize("form", ROWS)
def test_json_lines_give_their_rows(form, tmp_path):
    records = read(lines(tmp_path / "a.jsonl", *map(with_names, ROWS[form])))
    assert records.form == form and len(records) == len(ROWS[form])
    assert list(records) == records[:] == ROWS[form]
    assert [records[i] for i in range(-1, len(records))] == [ROWS[form][-1], *ROWS[form]]
    assert records[np.array([1, 0, 1])] == [ROWS[form][i] for i in (1, 0, 1)]
    with pytest.raises(IndexError):
        records[len(records)]


@pytest.mark.parametrize("form", ["text", "pair"])
def test_csv_gives_its_rows_quoted_ends_of_lines_too(form, tmp_path):
    path = tmp_path / "a.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, [*with_names(ROWS[form][0]), "id"])
        writer.writeheader()
        for number, row in enumerate(ROWS[form]):
            writer.writerow({**with_names(row), "id": number})
    records = read(path)
    assert records[:] == ROWS[form] and records[[2, 0]] == [ROWS[form][2], ROWS[form][0]]


@pytest.mark.parametrize("form", ROWS)
def test_parquet_gives_its_rows(form, tmp_path):
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    import pyarrow.parquet

    rows = [{**with_names(row), "id": n} for n, row in enumerate(ROWS[form])]
    pyarrow.parquet.write_table(
        pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=2
    )
    records = read(tmp_path / "a.parquet")
    assert records[:] == ROWS[form] and records[-1] == ROWS[form][-1]


def test_a_folder_that_datasets_saved_gives_its_rows(tmp_path):
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    for number in range(2):  # as `Dataset.save_to_disk` writes them: streams, named in state.json
        table = pa.Table.from_pylist([{"text": f"{number} {row}"} for row in range(3)])
        with pa.ipc.new_stream(str(tmp_path / f"data-{number}.arrow"), table.schema) as writer:
            writer.write_table(table)
    files = [{"filename": f"data-{number}.arrow"} for number in range(2)]
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": files}))
    assert read(tmp_path)[:] == ["0 0", "0 1", "0 2", "1 0", "1 1", "1 2"]
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(ValueError, match="holds the splits train, test"):
        read(tmp_path)


def test_datasets_itself_agrees(tmp_path):
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    data = datasets.Dataset.from_dict({"text": ["a", "b", "c"]})
    data.save_to_disk(tmp_path / "saved")
    assert read(tmp_path / "saved")[:] == read(data)[:] == ["a", "b", "c"]


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(ImportError, match=r'pip install "keras-gemma\[data\]"'):
        read(tmp_path / "a.parquet")


def test_several_files_are_one_after_the_other(tmp_path):
    lines(tmp_path / "b.jsonl", *ROWS["pair"][2:])
    lines(tmp_path / "a.jsonl", *ROWS["pair"][:2])
    (tmp_path / "notes.md").write_text("no data")
    for records in (read(tmp_path), read([tmp_path / "a.jsonl", tmp_path / "b.jsonl"])):
        assert records[:] == ROWS["pair"] and records[[2, 0, 1]] == [records[i] for i in (2, 0, 1)]
        assert records.part(1, 3)[:] == ROWS["pair"][1:] and len(records.part(0, 1)) == 1
    lines(tmp_path / "c.jsonl", "{")
    records = read(tmp_path, skip_bad=True)
    assert (records.part(0, 2).skipped, records.part(2, 3).skipped) == (1, 0)


def test_rows_in_memory_are_checked_alike():
    columns = {"question": ["a", "b"], "answer": ["c", "d"]}
    awaited = [{"prompts": "a", "responses": "c"}, {"prompts": "b", "responses": "d"}]
    assert read(columns)[:] == awaited
    assert read([{"question": "a", "answer": "c"}, {"question": "b", "answer": "d"}])[:] == awaited
    assert read({"messages": TALK})[:] == read(TALK)[:] == [{"messages": TALK}]
    assert read(np.array(["a", "b"]))[:] == read([b"a", b"b"])[:] == ["a", "b"]
    with pytest.raises(ValueError, match="data:1: 'answer' is empty"):
        read({"question": ["a", "b"], "answer": ["c", " "]})
    with pytest.raises(ValueError, match="of one length"):
        read({"question": ["a", "b"], "answer": ["c"]})


@pytest.mark.parametrize(
    ("row", "prompt", "response"),
    [
        ({"prompt": "p", "completion": "r"}, "p", "r"),
        ({"instruction": "p", "input": "", "output": "r"}, "p", "r"),
        ({"instruction": "p", "input": "more", "output": "r"}, "p\n\nmore", "r"),
        (
            {"instruction": "p", "context": "more", "response": "r", "category": "x"},
            "p\n\nmore",
            "r",
        ),
    ],
)
def test_names_that_files_give_their_fields(row, prompt, response):
    assert read([row])[0] == {"prompts": prompt, "responses": response}


# --- what is wrong with a row ---

DEEP = '{"text": ' + "[" * 100_000 + "]" * 100_000 + "}"
BAD = {
    "not JSON": ('{"prompt": "a", "response": }', "not JSON: Expecting value at column 29"),
    "cut off": ('{"prompt": "a", "resp', "not JSON: Unterminated string"),
    "not UTF-8": (b'{"prompt": "\xff", "response": "b"}', "not UTF-8: byte 0xff at column 13"),
    "half a character": ('{"prompt": "\\ud800", "response": "b"}', "lone surrogate"),
    "nested": (DEEP, "nested deeper"),
    "a key twice": ('{"prompt": "a", "prompt": "c", "response": "b"}', "'prompt' stands twice"),
    "NaN": ('{"prompt": NaN, "response": "b"}', "NaN is no number"),
    "missing field": ('{"prompt": "a"}', "found the fields \\['prompt'\\], awaited 'messages'"),
    "empty response": ('{"prompt": "a", "response": " \\n"}', "'response' is empty"),
    "no text": ('{"prompt": 3, "response": "b"}', "'prompt' must be a text, not int"),
    "null": ('{"prompt": null, "response": "b"}', "'prompt' must be a text, not NoneType"),
    "a number": ("17", "must be an object or a text, not int"),
    "a list of rows": (f"[{PAIR}, {PAIR}]", "not a list of them"),
    "another form": ('{"text": "a"}', "a text, where the rows before are of the form 'pair'"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_row_is_named_with_its_line(name, tmp_path):
    bad, says = BAD[name]
    path = lines(tmp_path / "a.jsonl", PAIR, "", bad, PAIR)
    with pytest.raises(ValueError, match=f"a.jsonl:3: .*{says}"):
        read(path)
    records = read(path, skip_bad=True)
    assert len(records) == 2 and records.skipped == 1 and len(records.examples) == 1
    assert records.examples[0].startswith(f"{path}:3: ")


def talk(*messages):
    return {"messages": [dict(zip(("role", "content", "weight"), message)) for message in messages]}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (talk(("user", "a"), ("bot", "b")), "Message 1 has the role 'bot'; there are user, model"),
        (talk(("user", "a"), ("model", "")), "what the model says is empty"),
        (talk(("user", "a")), "the model says nothing"),
        (talk(("model", "a")), "Message 0 is by the model"),
        (talk(("user", "a"), ("model", None)), "content of message 1 must be a text"),
        (talk(("user", "a"), ("model", "b", -1)), "weight of message 1 must be 0 or more"),
        (talk(("user", "a"), ("model", "b", 1e39)), "no more than float32 holds, not 1e\\+39"),
        (talk(("user", "a"), ("model", "b", "1")), "weight of message 1 must be a number"),
        (talk(("user", "a", 1), ("model", "b")), "only what the model says is trained on"),
        ({"messages": [{"role": "user"}]}, "must have 'role' and 'content'"),
        ({"messages": {"role": "user"}}, "a list of messages, not dict"),
        ({"messages": []}, "at least one message"),
    ],
)
def test_a_wrong_conversation_is_named_with_its_line(row, says, tmp_path):
    with pytest.raises(ValueError, match=f"a.jsonl:2: .*{says}"):
        read(lines(tmp_path / "a.jsonl", {"messages": TALK}, row))


def test_conversations_in_the_dialect_of_chat_completions_are_taken(tmp_path):
    parts = [{"type": "text", "text": "Hello, "}, {"type": "text", "text": "you"}]
    row = talk(("developer", "Be kind."), ("user", "Hi"), ("assistant", parts))
    assert read(lines(tmp_path / "a.jsonl", row, {"messages": TALK}))[0] == row
    assert read([row["messages"], TALK])[:] == [row, {"messages": TALK}]
    with pytest.raises(ValueError, match="what the model says is empty"):
        read([talk(("user", "Hi"), ("assistant", []))])


def test_rows_of_parquet_have_the_dialect_of_chat_completions_too(tmp_path):
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    import pyarrow.parquet

    said = [
        {"role": role, "content": [{"type": "text", "text": "Hi"}]} for role in ("user", "model")
    ]
    calls = [{**message, "tool_calls": None} for message in said]
    pyarrow.parquet.write_table(pa.Table.from_pylist([{"messages": calls}]), tmp_path / "a.parquet")
    assert len(read(tmp_path / "a.parquet")) == 1


@pytest.mark.parametrize("row", ["half \ud800", talk(("user", "a"), ("model", "half \ud800"))])
def test_half_a_character_is_named_with_its_row_in_all_data(row):
    rows = ["whole 😀"] * 3000 if isinstance(row, str) else [{"messages": TALK}] * 3000
    with pytest.raises(ValueError, match=r"data:3000: .* lone surrogate '\\ud800' at character 5"):
        read([*rows, row])
    assert read([*rows, row], skip_bad=True).skipped == 1


def test_what_gives_rows_one_after_the_other_is_refused():
    with pytest.raises(TypeError, match=r"not generator.*list\(itertools.islice\(rows, 100\)\)"):
        read(text for text in ROWS["text"])


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    assert (
        read(lines(tmp_path / "a.jsonl", b"\xef\xbb\xbf" + PAIR.encode(), PAIR))[0]["prompts"]
        == "a"
    )


def test_a_row_of_ten_megabytes_is_read_and_one_without_end_is_not(tmp_path, monkeypatch):
    records = read(lines(tmp_path / "a.jsonl", {"text": "long " * 2_000_000}, {"text": "short"}))
    assert [len(text) for text in records] == [10_000_000, 5]
    monkeypatch.setattr(row_files, "LONGEST_ROW", 2**20)
    with pytest.raises(ValueError, match="a.jsonl:1: longer than 1 MB"):
        read(tmp_path / "a.jsonl")
    assert read(tmp_path / "a.jsonl", skip_bad=True)[:] == ["short"]
    (tmp_path / "a.csv").write_text('text,id\n"' + "long " * 300_000 + '\nand on",1\nshort,2\n')
    records = read(tmp_path / "a.csv", skip_bad=True)
    assert records[:] == ["short"] and records.skipped == 1


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (["text,id", "a,1", "b"], "a.csv:3: 1 fields, where the header names 2"),
        (["text,id", "a,1", b"\xff,2"], "a.csv:3: not UTF-8: byte 0xff at column 1"),
        (["text,id", "a,1", '"open,2'], "a.csv:3: unexpected end of data"),
        (["text,text", "a,1"], "a.csv:1: the header names a field twice"),
        (["id", "1"], "a.csv:2: found the fields \\['id'\\]"),
        (["text,id", '"a', b'b\xff",1'], "a.csv:3: not UTF-8: byte 0xff at column 2"),
        ([b"text,id\ra,1\rb,2"], "a.csv:1: a carriage return .* End lines with LF or CRLF"),
        (["text,id", b"a\rb,1"], "a.csv:2: a carriage return"),
    ],
)
def test_a_wrong_row_of_a_csv_file_is_named_with_its_line(rows, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        read(lines(tmp_path / "a.csv", *rows))


@pytest.mark.parametrize(
    "bad",
    [
        b'"ab\xff\ndef",resp',
        b'"ab\nc\xffd\n""ef""",resp',
        b'a\xff"b,resp',
        b'"a\xff,b\n\xff",resp',
    ],
)
def test_of_a_wrong_record_of_a_csv_file_nothing_is_a_row(bad, tmp_path):
    path = lines(tmp_path / "a.csv", "prompt,response", "a,b", bad, "ok,fine")
    records = read(path, skip_bad=True)
    assert [row["prompts"] for row in records] == ["a", "ok"] and records.skipped == 1


def test_what_is_wrong_in_a_million_lines_is_found_within_seconds(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n' * 999_999 + '{"text": "a"\n')
    started = time.process_time()
    with pytest.raises(ValueError, match="a.jsonl:1000000: not JSON"):
        read(path)
    assert time.process_time() - started < 30  # 5 where nothing else runs


def test_reading_many_rows_takes_the_memory_of_some(tmp_path):
    rows = read(lines(tmp_path / "a.jsonl", *['{"text": "a"}'] * 100_000))
    tracemalloc.start()
    assert sum(1 for _ in rows) == 100_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * len(rows)  # the places of all, as Python's numbers, would take twice that


def test_where_no_row_is_right_the_reasons_are_said(tmp_path):
    with pytest.raises(ValueError, match="no row to train on in .*a.jsonl.\n.*a.jsonl:1: not JSON"):
        read(lines(tmp_path / "a.jsonl", "{", "}"), skip_bad=True)
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(ValueError, match="no row to train on"):
        read(tmp_path / "empty.jsonl")


def test_what_cannot_be_read_is_said_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no .*none.jsonl"):
        read(tmp_path / "none.jsonl")
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(ValueError, match=r"of no kind that is read: .jsonl, "):
        read(tmp_path / "a.txt")


def test_names_of_files_may_be_in_capitals(tmp_path):
    lines(tmp_path / "A.JSONL", PAIR)
    lines(tmp_path / "B.CSV", "prompt,response", "c,d")
    assert [row["prompts"] for row in read(tmp_path)] == ["a", "c"]
    assert len(read(tmp_path / "A.JSONL")) == len(read(tmp_path / "B.CSV")) == 1


@pytest.mark.parametrize("indent", [None, 1])
def test_one_array_of_rows_is_told_how_to_become_json_lines(indent, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([json.loads(PAIR)] * 2, indent=indent))
    for skip_bad in (False, True):
        with pytest.raises(ValueError, match=r"a.json.*JSON Lines.* `jq -c \".\[\]\" "):
            read(path, skip_bad=skip_bad)


def test_no_parquet_is_no_parquet(tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(ValueError, match="a.parquet is no Parquet file"):
        read(tmp_path / "a.parquet")


def test_a_file_that_was_changed_is_not_read_on(tmp_path):
    records = read(lines(tmp_path / "a.jsonl", PAIR, PAIR))
    lines(tmp_path / "a.jsonl", PAIR)
    with pytest.raises(ValueError, match="a.jsonl was changed since it was read"):
        records[0]
