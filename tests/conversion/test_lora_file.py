"""`.lora.h5`, read with suspicion; what KerasHub makes of one is in `parity/test_keras_hub_lora.py`."""

import numpy as np
import pytest
from mutations import survived

from keras_gemma.conversion.adapters import Adapter, LayerAdapter, LoraOptions
from keras_gemma.conversion.keras_hub import lora_file

pytestmark = pytest.mark.once
PATHS = ["", "block/query/kernel", "", "block/value/kernel"]


def adapter(rank=2, other_rank=None, **options):
    def layer(rank):
        made = LoraOptions(rank, **options)
        lengths = np.full(5, 2.0, "float32") if made.use_dora else None
        a, b = np.ones((3, rank), "float32"), np.full((rank, 5), 0.3, "float32")
        return LayerAdapter(made, a, b, lengths)

    ranks = rank, other_rank or rank
    return Adapter({path: layer(r) for path, r in zip(filter(None, PATHS), ranks)}, "0a" * 32)


@pytest.mark.parametrize("options", [{}, {"alpha": 3.0, "use_rslora": True}, {"use_dora": True}])
def test_what_is_written_is_read(options, tmp_path):
    lora_file.write(tmp_path / "a.lora.h5", adapter(**options), PATHS)
    assert [path.name for path in tmp_path.iterdir()] == ["a.lora.h5"]
    read, expected = lora_file.read(tmp_path / "a.lora.h5", PATHS), adapter(**options)
    assert read.fingerprint == expected.fingerprint
    for path, layer in expected.layers.items():
        assert read.layers[path].options == layer.options
        for got, awaited in zip(read.layers[path][1:], layer[1:]):
            np.testing.assert_allclose(got, awaited, rtol=1e-6) if awaited is not None else None


def test_there_is_one_rank(tmp_path):
    with pytest.raises(ValueError, match=r"one rank, and this adapter has \[2, 4\].*format='peft'"):
        lora_file.write(tmp_path / "a.lora.h5", adapter(2, 4), PATHS)


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "a.lora.h5"
    lora_file.write(path, adapter(), PATHS)
    before = path.read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("h5py.Group.create_dataset", full)
    with pytest.raises(OSError, match="No space"):
        lora_file.write(path, adapter(4), PATHS)
    assert path.read_bytes() == before and [*tmp_path.iterdir()] == [path]


def test_damaged_at_random_it_is_read_or_refused(tmp_path):
    path = tmp_path / "a.lora.h5"
    lora_file.write(path, adapter(use_dora=True), PATHS)
    good = survived(path, path.read_bytes(), lambda p: lora_file.read(p, PATHS), range(300))
    assert 5 < good < 295
