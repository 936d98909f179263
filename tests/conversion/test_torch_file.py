"""PyTorch's files, read without PyTorch and without running what is in them."""

import io
import os
import pickle
import zipfile

import numpy as np
import pytest
from guards import within_a_second
from mutations import survived

from keras_gemma.conversion.gemma_pytorch.torch_file import TorchTensors, is_torch_file
from keras_gemma.presets import BadPresetError

torch = pytest.importorskip("torch", reason="torch is not installed")

pytestmark = pytest.mark.once


def tensors():
    random = torch.Generator().manual_seed(0)
    found = {
        f"model.{name}": torch.randn((3, 5), generator=random).to(dtype)
        for name, dtype in (
            ("a", torch.float32),
            ("b", torch.bfloat16),
            ("c", torch.float16),
            ("d", torch.float64),
        )
    }
    found["whole"] = torch.arange(-3, 4, dtype=torch.int8)
    found["angles"] = torch.ones(4, dtype=torch.complex64)
    found["one"] = torch.tensor(2.5)
    return found


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "gemma.ckpt"
    torch.save({"model_state_dict": tensors(), "epoch": 3, "lr": [0.5, None, True]}, path)
    return path


def same(array, tensor):
    if tensor.dtype == torch.bfloat16:
        return np.array_equal(array.view("int16"), tensor.view(torch.int16).numpy())
    return np.array_equal(array, tensor.numpy()) and array.dtype == tensor.numpy().dtype


def test_every_tensor_is_read_as_pytorch_wrote_it(file):
    found, expected = TorchTensors(file), tensors()
    assert list(found.headers()) == list(expected)
    for name, tensor in expected.items():
        assert found.headers()[name].shape == tuple(tensor.shape)
        assert same(found.read(name), tensor), name
    assert found.headers()["model.b"].dtype == "bfloat16"
    assert found.extra == {"epoch": 3, "lr": [0.5, None, True]}


def test_a_state_dict_of_a_module_is_read(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    torch.save(module.state_dict(), tmp_path / "a.pt")
    torch.save({"model_state_dict": dict(module.named_parameters())}, tmp_path / "b.pt")
    for name in ("a.pt", "b.pt"):
        found = TorchTensors(tmp_path / name)
        for key, tensor in module.state_dict().items():
            assert same(found.read(key), tensor)


def test_tensors_that_share_a_storage_are_read_from_their_places(tmp_path):
    whole = torch.arange(24.0).reshape(4, 6)
    torch.save({"whole": whole, "part": whole[1:3], "row": whole[2]}, tmp_path / "a.pt")
    found = TorchTensors(tmp_path / "a.pt")
    assert found.read("part").tolist() == whole[1:3].tolist()
    assert found.read("row").tolist() == whole[2].tolist()


def test_pickles_of_newer_protocols_are_read(tmp_path):
    for protocol in (2, 3, 4, 5):
        torch.save(tensors(), tmp_path / "a.pt", pickle_protocol=protocol)
        assert TorchTensors(tmp_path / "a.pt").headers().keys() == tensors().keys()


def test_a_transposed_tensor_is_refused_with_what_to_do(tmp_path):
    torch.save({"t": torch.ones(3, 5).T}, tmp_path / "a.pt")
    with pytest.raises(BadPresetError, match=r"t does not lie row after row.*\.contiguous"):
        TorchTensors(tmp_path / "a.pt")


class _Runs:
    def __init__(self, call, *arguments):
        self.call = call, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    "call, arguments",
    [
        (os.system, ("touch {canary}",)),
        (eval, ("open('{canary}', 'w')",)),
        (open, ("{canary}", "w")),
        (torch.nn.Linear, (3, 4)),
        (__import__, ("antigravity",)),
    ],
)
def test_code_in_a_pickle_is_named_and_not_run(tmp_path, call, arguments, protocol):
    canary = tmp_path / "canary"
    given = [
        str(a).replace("{canary}", str(canary)) if isinstance(a, str) else a for a in arguments
    ]
    hostile = pickle.dumps({"model_state_dict": _Runs(call, *given)}, protocol)
    path = rewritten(tmp_path, lambda name, data: hostile if name.endswith("data.pkl") else data)
    with pytest.raises(BadPresetError, match=f"{call.__name__}|Linear|instruction|damaged"):
        TorchTensors(path)
    assert not canary.exists()


def rewritten(folder, change, compression=zipfile.ZIP_STORED):
    """A good file whose members went through `change(name, data)`: None leaves one out."""
    made = io.BytesIO()
    torch.save({"model_state_dict": tensors()}, made)
    path = folder / "x.ckpt"
    with zipfile.ZipFile(made) as old, zipfile.ZipFile(path, "w", compression) as new:
        for info in old.infolist():
            data = change(info.filename, old.read(info))
            if data is not None:
                new.writestr(info.filename, data)
    return path


def replaced(old, new):
    return lambda name, data: data.replace(old, new) if name.endswith("data.pkl") else data


LONG_SHAPE = pickle.dumps((3, 5), 2)[2:-1]


@pytest.mark.parametrize(
    "change, told",
    [
        (lambda name, data: None if name.endswith("/data/1") else data, "model.b.*is missing"),
        (lambda name, data: data[:-2] if name.endswith("/data/1") else data, "28 bytes stored, 30"),
        (lambda name, data: data + b"xx" if name.endswith("/data/0") else data, "62 bytes stored"),
        (lambda name, data: b"big" if name.endswith("byteorder") else data, "byte order b'big'"),
        (lambda name, data: None if name.endswith("data.pkl") else data, "no one data.pkl"),
        (lambda name, data: data[:40] if name.endswith("data.pkl") else data, "damaged"),
        (lambda name, data: b"" if name.endswith("data.pkl") else data, "damaged"),
        (lambda name, data: b"K" * 2**22 if name.endswith("data.pkl") else data, "damaged|too"),
        (lambda name, data: bytes(2**22 + 1) if name.endswith("data.pkl") else data, "too large"),
        (lambda name, data: b"(" * 500_000 if name.endswith("data.pkl") else data, "too long"),
        (lambda name, data: b"]." if name.endswith("data.pkl") else data, "not named tensors"),
        (
            lambda name, data: pickle.dumps({"a": 1}, 2) if "pkl" in name else data,
            "'a' is no tensor",
        ),
        (replaced(b"FloatStorage", b"EvilXStorage"), "EvilXStorage"),
        (replaced(b"_rebuild_tensor_v2", b"_rebuild_tensor_v9"), "_rebuild_tensor_v9"),
        (replaced(b"K\x03K\x05\x86", b"K\x04K\x05\x86"), "goes beyond its"),
        (replaced(b"K\x03K\x05\x86", b"K\xffK\xff\x86"), "goes beyond its"),
        (replaced(b"K\x05K\x01\x86", b"K\x00K\x00\x86"), "row after row"),
    ],
)
def test_a_file_that_says_what_is_not_so_is_refused(tmp_path, change, told):
    path = rewritten(tmp_path, change)
    with within_a_second(), pytest.raises(BadPresetError, match=told):
        TorchTensors(path)


def test_compressed_members_are_refused(tmp_path):
    path = rewritten(tmp_path, lambda name, data: data, zipfile.ZIP_DEFLATED)
    with pytest.raises(BadPresetError, match="compressed or cut"):
        TorchTensors(path)


@pytest.mark.parametrize("name", ["../up", "/etc/x", "a/../../b", "a\\..\\b"])
def test_names_that_lead_out_are_refused(tmp_path, name):
    path = rewritten(tmp_path, lambda name, data: data)
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo("x")
        info.filename = name
        archive.writestr(info, b"")
    with pytest.raises(BadPresetError, match="leads out"):
        TorchTensors(path)


def test_members_over_one_another_and_false_lengths_are_refused(file):
    data = bytearray(file.read_bytes())
    table = data.rfind(b"PK\x05\x06")
    start = int.from_bytes(data[table + 16 : table + 20], "little")
    for place, number in ((42, 0), (24, 10**6), (20, 7), (42, 2**31)):
        broken = bytearray(data)
        last = broken.rfind(b"PK\x01\x02")
        assert last > start
        broken[last + place : last + place + 4] = number.to_bytes(4, "little")
        file.write_bytes(broken)
        with pytest.raises(BadPresetError, match="gemma.ckpt"):
            TorchTensors(file)


def test_a_table_of_members_that_would_fill_the_memory_is_refused_unread(file):
    data = bytearray(file.read_bytes())
    end = data.rfind(b"PK\x05\x06")
    data[end + 12 : end + 16] = (2**30).to_bytes(4, "little")
    file.write_bytes(data)
    with pytest.raises(BadPresetError, match="table of members is too large"):
        TorchTensors(file)


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_a_cut_file_is_named(file, share):
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])
    with pytest.raises(BadPresetError, match="gemma.ckpt is truncated or damaged"):
        TorchTensors(file)


def test_the_format_before_zip_files_is_told(tmp_path):
    path = tmp_path / "old.ckpt"
    torch.save(tensors(), path, _use_new_zipfile_serialization=False)
    assert not is_torch_file(path)
    with pytest.raises(BadPresetError, match="no file of PyTorch since 1.6"):
        TorchTensors(path)


def read_whole(path):
    found = TorchTensors(path)
    for name in found.headers():
        found.read(name)


@pytest.fixture
def small():
    made = io.BytesIO()
    torch.save({"model_state_dict": {"a": torch.ones(3, 5), "b": torch.zeros(2)}}, made)
    return made.getvalue()


def test_damaged_at_random_it_is_refused_or_read(small, tmp_path):
    good = survived(tmp_path / "m.ckpt", small, read_whole, range(500))
    assert 5 < good < 375


@pytest.mark.slow
def test_damaged_at_random_ten_thousand_times(small, tmp_path):
    survived(tmp_path / "m.ckpt", small, read_whole, range(500, 10_500))
