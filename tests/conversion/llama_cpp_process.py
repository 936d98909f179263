"""What llama.cpp makes of a GGUF file; run by an interpreter that has llama-cpp-python.

    python llama_cpp_process.py REQUEST.json ANSWER_FOLDER

Knows nothing of keras_gemma. The request's keys: `path`; `texts` to be cut in tokens; `rows` of
tokens whose logits are asked for; `prompts`, of tokens, to be continued greedily by `new` tokens;
`conversations` to be rendered with the file's template; `quantize`, types by the files to write;
`headers`, files of which nothing but the header is there.
"""

import ctypes
import json
import sys
from pathlib import Path

import llama_cpp
import numpy as np
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

FLOAT32 = 0  # a ggml_type
LEVELS = {3: "warning", 4: "error"}
CONTINUED = 5
COMPLAINTS = []


@llama_cpp.llama_log_callback
def log(level, text, _):
    """Keeps what is a warning or worse; a line may come in several pieces."""
    log.level = log.level if level == CONTINUED else level
    if log.level in LEVELS:
        text = text.decode("utf-8", "replace")
        if level == CONTINUED and COMPLAINTS:
            COMPLAINTS[-1] += text
        else:
            COMPLAINTS.append(f"{LEVELS[log.level]}: {text}")


log.level = 0


def main():
    request, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    llama_cpp.llama_log_set(log, ctypes.c_void_p(0))
    answer = {"version": llama_cpp.__version__}
    for out, kind in request.get("quantize", {}).items():
        quantize(request["path"], out, kind)
    answer["parameters"] = [parameters(path) for path in request.get("headers", [])]
    if "path" in request:
        answer |= run(request, folder)
    answer["complaints"] = COMPLAINTS
    (folder / "answer.json").write_text(json.dumps(answer))


def run(request, folder):
    """What the model in a file says."""
    longest = max(map(len, request.get("rows", [[]])), default=0)
    model = llama_cpp.Llama(
        request["path"],
        n_ctx=max(longest, 256),
        n_threads=1,
        n_threads_batch=1,
        type_k=FLOAT32,
        type_v=FLOAT32,
        logits_all=True,
        swa_full=False,  # the default, a cache without windows, gives a warning
        verbose=False,
    )
    llama_cpp.llama_log_set(log, ctypes.c_void_p(0))
    texts, answer = request.get("texts", []), {}
    answer["plain"] = [model.tokenize(t.encode(), add_bos=False, special=False) for t in texts]
    answer["special"] = [model.tokenize(t.encode(), add_bos=False, special=True) for t in texts]
    answer["continued"] = [greedy(model, ids, request["new"]) for ids in request.get("prompts", [])]
    answer["rendered"] = [rendered(model, c) for c in request.get("conversations", [])]
    answer["metadata"] = model.metadata
    for number, ids in enumerate(request.get("rows", [])):
        model.reset()
        model.eval(ids)
        np.save(folder / f"{number}.npy", model.scores[: len(ids)])
    return answer


def greedy(model, ids, new):
    """The likeliest continuation, its text, and by how much each token led the next best."""
    model.reset()
    model.eval(ids)
    out, leads = [], []
    for _ in range(new):
        logits = model.scores[model.n_tokens - 1]
        second, first = np.partition(logits, -2)[-2:]
        out.append(int(logits.argmax()))
        leads.append(float(first - second))
        if llama_cpp.llama_vocab_is_eog(model._model.vocab, out[-1]):
            break
        model.eval(out[-1:])
    text = model.detokenize(out, special=False).decode("utf-8", "replace")
    return {"ids": out, "leads": leads, "text": text}


def rendered(model, messages):
    """The text of a conversation, by the file's template."""
    template = model.metadata["tokenizer.chat_template"]
    names = [model._model.token_get_text(i) for i in (model.token_eos(), model.token_bos())]
    formatter = Jinja2ChatFormatter(template, *names)
    return formatter(messages=messages).prompt


def quantize(path, out, kind):
    """Write `path` anew, as llama.cpp's quantizer does; `pure` gives all tensors one type."""
    options = llama_cpp.llama_model_quantize_default_params()
    options.nthread, options.pure = 1, kind.endswith(", pure")
    options.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind.removesuffix(', pure')}")
    if llama_cpp.llama_model_quantize(path.encode(), out.encode(), ctypes.byref(options)):
        raise RuntimeError(f"llama.cpp did not quantize {path} to {kind}: {COMPLAINTS}")


def parameters(path):
    """The number of parameters in a file, its tensors seen to have the shapes that are awaited."""
    options = llama_cpp.llama_model_default_params()
    options.no_alloc, options.load_mode = True, llama_cpp.LLAMA_LOAD_MODE_NONE
    model = llama_cpp.llama_model_load_from_file(path.encode(), options)
    if not model:
        return 0
    count = llama_cpp.llama_model_n_params(model)
    llama_cpp.llama_model_free(model)
    return count


if __name__ == "__main__":
    main()
