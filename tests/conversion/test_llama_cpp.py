"""llama.cpp reads what we write, and we what it writes: tokens, logits, texts and turns.

It runs in a process of its own: this interpreter, or the one that KERAS_GEMMA_LLAMA_CPP names.
"""

import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cases
import llama_cpp_arithmetic
import numpy as np
import pytest
from keras import ops
from test_chat_template import CONVERSATIONS
from vocabularies import CORPUS, real

import keras_gemma
from keras_gemma import GemmaTokenizer, export_checkpoint
from keras_gemma.conversion.checkpoint import Source
from keras_gemma.conversion.gguf import writer
from keras_gemma.conversion.gguf.blocks import BLOCKS
from keras_gemma.conversion.gguf.checkpoint import RULES, save
from keras_gemma.conversion.gguf.file import GGUFFile
from keras_gemma.conversion.weight_map import entries
from keras_gemma.presets import registry
from keras_gemma.presets.sizes import weight_shapes
from keras_gemma.text import encode_turns

PYTHON = os.environ.get("KERAS_GEMMA_LLAMA_CPP") or sys.executable
pytestmark = [
    pytest.mark.slow,
    pytest.mark.once,
    pytest.mark.skipif(
        PYTHON == sys.executable and importlib.util.find_spec("llama_cpp") is None,
        reason="llama_cpp is not installed, and KERAS_GEMMA_LLAMA_CPP names no Python that has it",
    ),
]
# Widths are whole numbers of 256, which llama.cpp's K blocks take, and heads are together wider
# than the model, as the 7B's are.
SIZES = {
    "vocabulary_size": 2048,
    "num_layers": 3,
    "num_query_heads": 4,
    "num_key_value_heads": 2,
    "hidden_dim": 256,
    "intermediate_dim": 512,
    "head_dim": 128,
}
SMALL = {"hidden_dim": 64, "intermediate_dim": 128, "head_dim": 32}
LARGE_SCALE = {**SMALL, "query_head_dim_normalize": False}
SHAPES = {
    "2B": {"num_key_value_heads": 1},
    "7B": {"num_key_value_heads": 4},
    "Gemma 2": cases.GEMMA_2,
    "Gemma 3": {**cases.GEMMA_3, "intermediate_dim": 256},
    "Gemma 3, long": {**cases.GEMMA_3, "intermediate_dim": 256, "global_rope_scaling_factor": 8.0},
    # llama.cpp tells the scale of their queries by the number of layers.
    "Gemma 2 27B": {**cases.GEMMA_2, **LARGE_SCALE, "num_layers": 46},
    "Gemma 3 27B": {**cases.GEMMA_3, **LARGE_SCALE, "num_layers": 62},
}
TYPES = ["F32", "F16", "BF16", "Q8_0", "Q4_0"]
QUANTIZED = ["Q8_0, pure", "Q4_0, pure", "Q4_0", "Q4_K_M", "Q6_K"]
FAMILIES = ["2B", "7B", "Gemma 2", "Gemma 3"]
WRITTEN = [(s, t) for s in SHAPES for t in (TYPES if s in FAMILIES else ["calm F32"])]
# The largest errors by our formula, and in three layers once we round as llama.cpp does: a number
# that lies between two steps goes up here and down there, and steps of eight bits are large.
PLAIN = {"F32": 2e-2, "F16": 2e-2, "BF16": 2e-2} | dict.fromkeys(BLOCKS, 3e-2)
ROUNDED = {"F32": 1e-4, "F16": 5e-3, "BF16": 5e-3} | dict.fromkeys(BLOCKS, 2e-2)
REAL = ["gemma_2b_en", "gemma_7b_en", "gemma2_2b_en", "gemma2_9b_en", "gemma2_27b_en"]
REAL += ["gemma3_270m", "gemma3_1b", "gemma3_4b_text", "gemma3_12b_text", "gemma3_27b_text"]
# What the spread of random weights is, times the root of the numbers that are summed. With these
# scores pass 50 and logits 20, as in cases.py.
LOUD = (
    ("query_norm/scale", 3.2),
    ("key_norm/scale", 3.2),
    ("final_normalization/scale", 1.0),
    ("scale", 0.4),
    ("query/kernel", 3.5),
    ("key/kernel", 3.5),
    ("embeddings", 6.0),
    ("ffw", 1.0),
    ("", 3.0),
)
# Where llama.cpp rounds activations, scores must be as small as trained models' are: in eight bits
# those above make an error of 0.2 of it.
CALM = (*LOUD[2:4], ("embeddings", 6.0), ("query/kernel", 1.0), ("key/kernel", 1.0))
CALM += (("ffw", 1.0), ("", 1.5))
GAINS = {"F32": LOUD} | dict.fromkeys(["F16", "BF16", "Q8_0", "Q4_0", "calm F32"], CALM)
TEXTS = [
    *CORPUS,
    "Once upon a time",
    " two  three   four    spaces ",
    "\n\n\n\ta\r\nb\x00c\x1b[0m\x7f",
    "3.14159 and 1,000,000 and 0x7fff",
    "Ω≈ç√ naïve Straße ﬁ ①² ½",
    "日本語のテキスト 한국어 العربية עברית हिन्दी ไทย",
    "🦊 👩‍👩‍👧‍👦 🏳️‍🌈 e\u0301 \u200b\ufeff \U0010ffff",
    "x" * 300 + " " + "ab" * 200,
    "for (int i = 0; i < n; ++i) {\n\t\treturn a[i]->b;\n}\n",
]
# Gemma's vocabularies have HTML's </s>. llama.cpp takes it for the end of Llama's texts, whoever
# wrote the file, and says so.
ALLOWED = "control-looking token: *[0-9]+ '</s>' was not control-type"
NAMES = [
    "<table><h1>a</h1></table> [toxicity=0] <0x41>",
    "<start_of_turn>user\nOnce upon a  time<end_of_turn>\n<start_of_turn>model\n",
    "a<end_of_turn><end_of_turn> b",
]


def ask(folder, **request):
    """What llama.cpp says of files, and where it has complained; logits come as arrays."""
    folder.mkdir(exist_ok=True)
    asked = folder / "request.json"
    asked.write_text(json.dumps(request))
    script = Path(__file__).with_name("llama_cpp_process.py")
    done = subprocess.run(
        [PYTHON, script, asked, folder], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    answer = json.loads((folder / "answer.json").read_text())
    rows = range(len(request.get("rows", [])))
    return SimpleNamespace(**answer, logits=[np.load(folder / f"{i}.npy") for i in rows])


def random_texts(count=300):
    """Letters of all scripts, mixed with runs of white space, digits and signs."""
    random = np.random.default_rng(0)
    ranges = [(32, 127), (160, 0x24F), (0x370, 0x5FF), (0x900, 0xDFF), (0x3040, 0x9FFF)]
    ranges += [(0x1F300, 0x1FAFF), (9, 14), (32, 33), (48, 58)]
    for _ in range(count):
        spans = random.integers(0, len(ranges), random.integers(1, 12))
        letters = [random.integers(*ranges[i], random.integers(1, 9)) for i in spans]
        yield "".join(map(chr, np.concatenate(letters)))


def backbone_of(shape):
    return "Gemma3Backbone" if shape.startswith("Gemma 3") else "GemmaBackbone"


def drawn(shapes, gains=LOUD):
    """Random weights by path: numbers so large that every option shows."""

    def read(path):
        random = np.random.default_rng([len(path), sum(map(ord, path))])
        gain = next(gain for part, gain in gains if part in path)
        summed = {1: (), 2: (0,), 3: (1,)}[len(shapes[path])]  # axes, when it is multiplied
        if "embeddings" in path:
            summed = (1,)
        if "attention_output" in path:
            summed = (0, 1)
        fan_in = np.prod([shapes[path][axis] for axis in summed])
        # What the last norm multiplies with is of both signs, or the table, which serves at both
        # ends, would make each token follow itself.
        mean = -1 if "final_normalization" in path else 0
        return random.normal(mean, gain / fan_in**0.5, shapes[path]).astype("float32")

    return read


@pytest.fixture(scope="module")
def proto():
    return (registry.folder("gemma_tiny_en") / "assets/tokenizer/vocabulary.spm").read_bytes()


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    return tmp_path_factory.mktemp("gguf")


def token_rows():
    random = np.random.default_rng(1)
    return [[2, *random.integers(4, SIZES["vocabulary_size"], n).tolist()] for n in (11, 40)]


@pytest.fixture(scope="module")
def written(room, proto):
    """A file of ours with random weights, and what llama.cpp makes of it."""

    @functools.cache
    def write(shape, kind):
        arguments = {**SIZES, **SHAPES[shape]}
        backbone = backbone_of(shape)
        path = room / f"{shape} {kind}.gguf"
        read = drawn(weight_shapes(backbone, arguments), GAINS[kind])
        stored = kind.removeprefix("calm ")
        save(path, Source(backbone, arguments, stored, read, proto, 8192))
        rows = token_rows()
        answer = ask(room / f"{shape} {kind}", path=str(path), rows=rows, prompts=rows, new=12)
        return path, answer

    return write


@pytest.fixture(scope="module")
def quantized(written, room):
    """A file that llama.cpp's quantizer made of one of ours, and what llama.cpp says of it."""

    @functools.cache
    def write(shape, kind):
        path = room / f"{shape} theirs {kind}.gguf"
        source, _ = written(shape, "calm F32")
        ask(room / "quantizing", quantize={str(path): kind}, path=str(source))
        answer = ask(room / f"{shape} theirs {kind}", path=str(path), rows=token_rows())
        return path, answer

    return write


@functools.cache
def ours(path):
    """The model that we read from a file."""
    backbone = "Gemma3" if path.name.startswith("Gemma 3") else "Gemma"
    return getattr(keras_gemma, f"{backbone}CausalLM").from_preset(path, dtype="float32")


def logits(model, ids):
    batch = {"token_ids": np.array([ids], "int32"), "padding_mask": np.ones((1, len(ids)), "int32")}
    return ops.convert_to_numpy(model(batch))[0]


def error(model, answer):
    """Largest difference from llama.cpp's logits, in units of the largest."""
    found = [logits(model, ids) for ids in token_rows()]
    largest = max(np.abs(rows).max() for rows in answer.logits)
    assert largest > 20 and all(np.isfinite(rows).all() for rows in found)
    return max(np.abs(a - b).max() for a, b in zip(found, answer.logits)) / largest


def agree(path, answer, monkeypatch, case):
    """Our logits are llama.cpp's: nearly by our formula, closer where we round as it does."""
    model = ours(path)
    types = types_of(path, model)
    plain = error(model, answer)
    llama_cpp_arithmetic.use(monkeypatch, types)
    rounded = error(model, answer)
    print(f"{case}: {plain:.1e}, rounded alike {rounded:.1e}")  # pytest -s shows the figures
    assert plain <= max(PLAIN[kind] for kind in types.values())
    bar = max(ROUNDED[kind] for kind in types.values())
    assert rounded <= bar * (model.backbone.num_layers / 3 if bar == ROUNDED["F32"] else 1)


def types_of(path, model):
    """The type that each of our weights has in a file."""
    file, config = GGUFFile(path), model.backbone.get_config()
    found = entries(RULES, weight_shapes(type(model.backbone).__name__, config))
    return {part.path: file.type_name(e.theirs) for e in found for part in e.parts}


@pytest.mark.parametrize("shape, kind", WRITTEN)
def test_llama_cpp_loads_what_we_wrote_and_complains_of_nothing(written, shape, kind):
    assert written(shape, kind)[1].complaints == []


@pytest.mark.parametrize("shape, kind", WRITTEN)
def test_logits_are_those_of_llama_cpp(written, shape, kind, monkeypatch):
    agree(*written(shape, kind), monkeypatch, f"{shape}, {kind}")


@pytest.mark.parametrize("kind", QUANTIZED)
@pytest.mark.parametrize("shape", FAMILIES)
def test_what_its_quantizer_wrote_gives_its_logits(quantized, shape, kind, monkeypatch):
    agree(*quantized(shape, kind), monkeypatch, f"{shape}, its {kind}")


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
def test_its_quantizer_writes_the_numbers_that_ours_writes(written, quantized, room, kind):
    theirs, _ = quantized("2B", f"{kind}, pure")
    theirs, mine = GGUFFile(theirs), GGUFFile(written("2B", kind)[0])
    assert set(theirs) == set(mine)
    for name in mine:
        assert theirs.type_name(name) == mine.type_name(name)
        np.testing.assert_array_equal(theirs.read(name), mine.read(name), err_msg=name)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("shape", FAMILIES)
def test_greedy_text_is_equal_while_the_best_token_leads_by_more_than_the_error(
    written, shape, kind
):
    path, answer = written(shape, kind)
    model = ours(path)
    margin = 2 * error(model, answer) * max(np.abs(rows).max() for rows in answer.logits)
    compared = 0
    for prompt, theirs in zip(token_rows(), answer.continued):
        found = model.generate_ids(prompt, max_new_tokens=12)
        sure = next((i for i, lead in enumerate(theirs["leads"]) if lead <= margin), 12)
        assert found[:sure] == theirs["ids"][:sure]
        compared += sure
    print(f"{shape}, {kind}: {compared} tokens compared")
    assert compared


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "q8_0"])
@pytest.mark.parametrize("name", ["gemma_tiny_en", "gemma_instruct_tiny_en"])
def test_the_bundled_models_tell_the_same_story(room, name, kind):
    model = keras_gemma.GemmaCausalLM.from_preset(name, dtype="float32")
    path = export_checkpoint(model, room / f"{name} {kind}.gguf", dtype=kind)
    model = keras_gemma.GemmaCausalLM.from_preset(path, dtype="float32")
    tokenizer, text = model.preprocessor.tokenizer, "Once upon a time"
    prompt = [tokenizer.start_token_id, *tokenizer.encode(text)]
    answer = ask(room / f"{name} {kind}", path=str(path), texts=[text], prompts=[prompt], new=60)
    assert answer.complaints == [] and answer.plain == [prompt[1:]]
    found = model.generate_ids(prompt, max_new_tokens=60)
    assert found == answer.continued[0]["ids"] and len(set(found)) > 10
    assert tokenizer.detokenize(found) == answer.continued[0]["text"]


def test_the_template_in_the_file_renders_our_turns(room, written):
    path = written("2B", "F32")[0]
    tokenizer = ours(path).preprocessor.tokenizer
    conversations = [c for c in CONVERSATIONS.values() if c[-1]["role"] == "user"]
    answer = ask(room / "turns", path=str(path), conversations=conversations)
    for messages, text in zip(conversations, answer.rendered):
        _, *turns = encode_turns(tokenizer, messages, True)[0]
        assert text == "<bos>" + tokenizer.detokenize(turns)


@pytest.mark.parametrize("vocabulary", ["bundled", "gemma", "gemma3"])
def test_tokens_are_ours(room, proto, vocabulary):
    proto = proto if vocabulary == "bundled" else real(vocabulary)
    tokenizer = GemmaTokenizer(proto)
    size = tokenizer.vocabulary_size()
    arguments = {**SIZES, **SMALL, "num_layers": 1, "vocabulary_size": size}
    path = room / f"{size} pieces.gguf"
    read = drawn(weight_shapes("GemmaBackbone", arguments))
    save(path, Source("GemmaBackbone", arguments, "q4_0", read, proto, 8192))
    # Ours takes U+2581, which stands for a space within pieces, as itself.
    texts = [*TEXTS, *(text for text in random_texts() if "\u2581" not in text)]
    answer = ask(room / f"{size} pieces", path=str(path), texts=[*texts, *NAMES])
    assert not [line for line in answer.complaints if not re.search(ALLOWED, line)]
    for text, found in zip([*texts, *NAMES], answer.special):
        assert found == tokenizer.tokenize(text).tolist(), text
    # Where no name is to act, ours lets <h1> be text, too, and llama.cpp the turns only.
    for text, found in zip(texts, answer.plain):
        assert found == tokenizer.encode(text), text


@pytest.mark.parametrize("name", REAL)
def test_a_file_of_real_size_has_the_tensors_that_llama_cpp_awaits(name, room, proto, monkeypatch):
    """The numbers are left out: the file is a header with a hole behind it."""
    card = registry.card(name)
    monkeypatch.setattr(writer, "_encoded", lambda tensor: ())
    path = room / f"{name}.gguf"
    save(path, Source(card["backbone"], card["architecture"], "bfloat16", None, proto, 8192))
    with path.open("rb+") as file:
        file.truncate(3 * card["parameters"])
    answer = ask(room / name, headers=[str(path)])
    assert answer.parameters == [card["parameters"]] and answer.complaints == []
