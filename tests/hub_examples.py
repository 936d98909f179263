"""A hub on this machine, what it holds, and homes of their own for all that is fetched from it."""

import json
import random
import time
from pathlib import Path

import pytest
from hub_server import running

from keras_gemma.presets import bundle

SIZES = {
    "vocabulary_size": 32,
    "num_layers": 2,
    "num_query_heads": 2,
    "num_key_value_heads": 1,
    "hidden_dim": 8,
    "intermediate_dim": 24,
    "head_dim": 4,
}
WEIGHTS = random.Random(0).randbytes(3 * 2**20 + 17)
KERAS = {
    "config.json": json.dumps(bundle.serialized("GemmaBackbone", SIZES)).encode(),
    "metadata.json": b"{}",
    "tokenizer.json": b"{}",
    "assets/tokenizer/vocabulary.spm": b"spm" * 50,
    "model.weights.h5": WEIGHTS,
}
HUGGING_FACE = {
    "README.md": b"# A model",
    "config.json": b'{"model_type": "gemma"}',
    "generation_config.json": b"{}",
    "tokenizer.model": b"spm" * 50,
    "tokenizer.json": b'{"long": 1}',
    "tokenizer_config.json": b"{}",
    "model.safetensors.index.json": json.dumps(
        {"weight_map": {f"t{i}": f"model-0000{i % 2 + 1}-of-00002.safetensors" for i in range(5)}}
    ).encode(),
    "model-00001-of-00002.safetensors": WEIGHTS,
    "model-00002-of-00002.safetensors": b"x" * 1000,
    "original/consolidated.bin": b"never",
    "pytorch_model.bin": b"never",
    "model.gguf": b"GGUF" + WEIGHTS[:1000],
}
OWNER = "someone/gemma"
HF, KAGGLE = f"hf://{OWNER}", f"kaggle://{OWNER}/keras/tiny_en/7"
SHARD = "model-00001-of-00002.safetensors"


@pytest.fixture(name="hub")
def hub_fixture(tmp_path, monkeypatch):
    """The hub; its repository `someone/gemma` is a Hugging Face folder until a test says otherwise."""
    import kagglesdk.kaggle_env as kaggle
    from huggingface_hub import constants

    pause = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: pause(min(seconds, 0.05)))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "KAGGLE_API_TOKEN", "KAGGLE_USERNAME"):
        monkeypatch.delenv(name, raising=False)
    with running() as server:
        server.repositories[OWNER] = dict(HUGGING_FACE)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in {
            "ENDPOINT": server.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": template,
            "HF_HUB_CACHE": str(tmp_path / "hf"),
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "DOWNLOAD_CHUNK_SIZE": 2**16,  # 10 MiB, of which a cut leaves nothing on the disk
            "HF_TOKEN_PATH": str(tmp_path / "token"),
        }.items():
            monkeypatch.setattr(constants, name, value)
        # The client looks through the stack for each request, which takes a second under pytest.
        monkeypatch.setattr("kagglehub.clients.get_user_agent", lambda: "kagglehub")
        monkeypatch.setitem(kaggle._env_to_endpoint, kaggle.KaggleEnv.LOCAL, server.url)
        monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "LOCALHOST")
        monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "kaggle"))
        monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path))
        monkeypatch.setenv("KERAS_GEMMA_HOME", str(tmp_path / "home"))
        yield server


@pytest.fixture(name="place", params=["hf", "kaggle", "http"])
def place_fixture(request, hub):
    """`(handle, the name of its large file)` at each kind of place, over the same folder."""
    hub.repositories[OWNER] = dict(KERAS)
    web = f"{hub.url}/plain/{OWNER}"
    return {"hf": HF, "kaggle": KAGGLE, "http": web}[request.param], "model.weights.h5"


def names(folder):
    """The files below a folder, less those that are nobody's business."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if not Path(name).name.startswith("."))
