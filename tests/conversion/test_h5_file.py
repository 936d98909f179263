"""Arrays in `.weights.h5`, read with suspicion."""

import ml_dtypes
import numpy as np
import pytest
from mutations import survived

from keras_gemma.conversion.keras_hub.h5_file import H5Tensors
from keras_gemma.presets import BadPresetError

h5py = pytest.importorskip("h5py")

pytestmark = pytest.mark.once


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.weights.h5"
    with h5py.File(path, "w") as file:
        file["layers/a/vars/0"] = np.arange(24, dtype="float32").reshape(4, 6)
        narrow = np.linspace(-3, 3, 5).astype(ml_dtypes.bfloat16)
        file.create_dataset("layers/b/vars/0", data=narrow.view("V2"))
        file["layers/b/vars/0"].attrs["dtype"] = "bfloat16"
        file["layers/c/vars/0"] = np.arange(-2, 3, dtype="int8")
        file["layers/c/vars/1"] = np.float16(2.5)
        file["layers/d/vars/0"] = np.ones(3, "float16")
    return path


def changed(path):
    return h5py.File(path, "a")


def test_arrays_are_read_in_the_dtype_they_are_stored_in(file):
    found = H5Tensors(file)
    kinds = {name: stored.dtype for name, stored in found.headers().items()}
    assert kinds == {
        "layers/a/vars/0": "float32",
        "layers/b/vars/0": "bfloat16",
        "layers/c/vars/0": "int8",
        "layers/c/vars/1": "float16",
        "layers/d/vars/0": "float16",
    }
    assert found.read("layers/a/vars/0").tolist() == np.arange(24.0).reshape(4, 6).tolist()
    narrow = found.read("layers/b/vars/0")
    assert narrow.dtype == ml_dtypes.bfloat16
    assert np.array_equal(narrow, np.linspace(-3, 3, 5).astype(ml_dtypes.bfloat16))
    assert found.read("layers/c/vars/0").tolist() == [-2, -1, 0, 1, 2]
    assert found.read("layers/c/vars/1").shape == () and found.read("layers/c/vars/1") == 2.5


def test_compressed_arrays_are_read(file):
    with changed(file) as opened:
        array = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
        options = {"compression": "gzip", "shuffle": True, "chunks": (16, 8), "fletcher32": True}
        opened.create_dataset("layers/e/vars/0", data=array, **options)
    assert np.array_equal(H5Tensors(file).read("layers/e/vars/0"), array)


def test_files_are_read_together_and_none_twice(file, tmp_path):
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as opened:
        opened["layers/x/vars/0"] = np.ones(2)
    found = H5Tensors(tmp_path / "index", [file, other])
    assert "layers/x/vars/0" in found.headers() and "layers/a/vars/0" in found.headers()
    assert found.read("layers/x/vars/0").tolist() == [1, 1]
    with pytest.raises(BadPresetError, match=r"layers/a/vars/0 is in model.weights.h5, too"):
        H5Tensors(tmp_path / "index", [file, file])


@pytest.mark.parametrize("kind", ["soft", "external", "external dataset", "virtual", "hard"])
def test_links_are_refused_unread(file, kind, tmp_path):
    name = "layers/a/vars/0"
    (tmp_path / "secret.bin").write_bytes(b"\0" * 96)
    with changed(file) as opened:
        del opened[name]
        if kind == "soft":
            opened[name] = h5py.SoftLink("/layers/c/vars/0")
        elif kind == "external":
            opened[name] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/x")
        elif kind == "external dataset":
            place = [(str(tmp_path / "secret.bin"), 0, 96)]
            opened.create_dataset(name, (4, 6), "float32", external=place)
        elif kind == "hard":
            opened[name] = opened["layers/d/vars/0"]
        else:
            layout = h5py.VirtualLayout((4, 6), "float32")
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", shape=(4, 6))
            opened.create_virtual_dataset(name, layout)
    with pytest.raises(BadPresetError, match="link|another file|another name"):
        H5Tensors(file)


def test_groups_that_hold_each_other_are_refused(file):
    with changed(file) as opened:
        opened["layers/a/again"] = opened["layers"]
    with pytest.raises(BadPresetError, match="layers/a/again is there under another name"):
        H5Tensors(file)


def test_groups_in_groups_without_end_are_refused(file):
    with changed(file) as opened:
        opened.create_group("/".join("x" * 40))
    with pytest.raises(BadPresetError, match="nested too deep"):
        H5Tensors(file)


@pytest.mark.parametrize(
    "options, told",
    [
        ({"shape": (32, 8)}, "0 bytes stored, 1024 awaited"),  # never written
        ({"shape": (2**15, 2**15)}, "0 bytes stored, 4294967296 awaited"),
        ({"shape": (2**15, 2**15), "chunks": (64, 64)}, "0 bytes stored"),
        ({"shape": (2**15, 2**15), "chunks": (2**14, 2**14), "compression": "gzip"}, "0 bytes"),
    ],
)
def test_space_claimed_and_not_stored_is_refused(file, options, told):
    with changed(file) as opened:
        opened.create_dataset("layers/e/vars/0", dtype="float32", **options)
    with pytest.raises(BadPresetError, match=told):
        H5Tensors(file)


def test_a_bomb_of_zeros_is_refused(file):
    """One piece of 64 MB that deflate cannot have made of so few bytes."""
    with changed(file) as opened:
        made = opened.create_dataset(
            "layers/e/vars/0", (2**12, 2**12), "float32", chunks=(2**12, 2**12), compression="gzip"
        )
        made.id.write_direct_chunk((0, 0), b"x" * 1000)
    with pytest.raises(BadPresetError, match="1000 bytes stored, 67108864 awaited"):
        H5Tensors(file)


@pytest.mark.parametrize(
    "array", [np.array([b"text"]), np.zeros(2, "c8"), np.zeros(2, [("a", "f4")]), np.zeros(2, "V3")]
)
def test_what_is_no_number_is_refused(file, array):
    with changed(file) as opened:
        opened["layers/e/vars/0"] = array
    with pytest.raises(BadPresetError, match="layers/e/vars/0 holds .*no numbers"):
        H5Tensors(file)


def test_filters_from_elsewhere_are_refused(file):
    with changed(file) as opened:
        opened.create_dataset("layers/e/vars/0", data=np.ones(64), compression="lzf")
    with pytest.raises(BadPresetError, match="compressed in a way that Keras does not use"):
        H5Tensors(file)


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_a_cut_file_is_named(file, share):
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])
    with pytest.raises(BadPresetError, match="model.weights.h5 is truncated or damaged"):
        H5Tensors(file)


def read_whole(path):
    found = H5Tensors(path)
    for name in found.headers():
        found.read(name)


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.h5"
    with h5py.File(path, "w") as opened:
        opened["layers/a/vars/0"] = np.ones((2, 3), "float32")
        opened.create_dataset("b", data=np.ones(9), compression="gzip", chunks=(4,))
    return path.read_bytes()


def test_damaged_at_random_it_is_refused_or_read(small, tmp_path):
    good = survived(tmp_path / "m.h5", small, read_whole, range(500))
    assert 5 < good < 475


@pytest.mark.slow
def test_damaged_at_random_ten_thousand_times(small, tmp_path):
    survived(tmp_path / "m.h5", small, read_whole, range(500, 10_500))


def test_a_damaged_piece_is_told_when_it_is_read(file):
    with changed(file) as opened:
        made = opened.create_dataset("e", (64,), "float32", chunks=(64,), compression="gzip")
        made.id.write_direct_chunk((0,), b"no deflate at all")
    with pytest.raises(BadPresetError, match="model.weights.h5 is truncated or damaged"):
        H5Tensors(file).read("e")
