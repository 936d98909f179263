"""Checkpoints on disk: whole or not there, whatever happens while one is written."""

import errno
import resource
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from keras_gemma.presets.errors import BadPresetError, NoSpaceError
from keras_gemma.training import checkpoint_files as files
from keras_gemma.training.snapshot import Snapshot

pytestmark = pytest.mark.once


def snapshot(step, numbers=1000, **logs):
    arrays = {
        "weights/0/a": np.full((numbers,), step, "float32"),
        "weights/1/b": np.full((2, 3), step, "bfloat16"),
        "optimizer/0/iteration": np.array(step, "int64"),
    }
    return Snapshot(arrays, {"step": step, "logs": logs})


def test_what_is_written_is_read_again(tmp_path):
    files.write(tmp_path / "step_1", snapshot(5, loss=0.5))
    found = files.read(tmp_path / "step_1")
    assert found.state == {"step": 5, "logs": {"loss": 0.5}}
    for name, array in snapshot(5).arrays.items():
        assert found.arrays[name].dtype == array.dtype
        assert np.array_equal(found.arrays[name], array)


@pytest.mark.parametrize("end", [0, 7, 40, -1])
def test_a_cut_file_is_told(tmp_path, end):
    files.write(tmp_path / "step_1", snapshot(1))
    whole = (tmp_path / "step_1").read_bytes()
    (tmp_path / "step_1").write_bytes(whole[:end])
    with pytest.raises(BadPresetError):
        files.read(tmp_path / "step_1")


def test_the_best_is_kept_beside_the_newest(tmp_path):
    kept = files.CheckpointFiles(tmp_path, 2, ("val_accuracy", -1))
    for step, value in enumerate([0.1, 0.9, 0.3, 0.2, None], 1):
        kept.write(snapshot(step, **({} if value is None else {"val_accuracy": value})))
    kept.wait()
    assert [path.stem[-1] for path in kept.paths()] == ["5", "4", "2"]
    assert kept.best_path() == kept.paths()[-1]


def test_nan_is_never_the_best(tmp_path):
    kept = files.CheckpointFiles(tmp_path, 1, ("val_loss", 1))
    for step, value in enumerate([2.0, float("nan"), 3.0], 1):
        kept.write(snapshot(step, val_loss=value))
    kept.wait()
    assert [path.stem[-1] for path in kept.paths()] == ["3", "1"]


@pytest.mark.parametrize("byte", [b"\xff", b"}"])
def test_a_state_that_can_t_be_read_is_damage_and_the_one_before_is_taken(tmp_path, byte):
    kept = files.CheckpointFiles(tmp_path, 3)
    for step in (1, 2):
        files.write(tmp_path / f"step_{step:08}.safetensors", snapshot(step))
    newest = kept.paths()[0]
    newest.write_bytes(newest.read_bytes().replace(b'"step"', byte + b'step"'))
    with pytest.warns(UserWarning, match="its state can't be read. The checkpoint before it is"):
        assert kept.newest() == kept.paths()[1]


def test_a_full_disk_is_told_in_bytes_and_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    kept = files.CheckpointFiles(tmp_path, 3)
    kept.write(snapshot(1))
    kept.wait()
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: SimpleNamespace(free=2500))
    kept.write(snapshot(2))
    with pytest.raises(NoSpaceError, match=r"needs 4,\d\d\d bytes, and 2,500 are free"):
        kept.wait()
    assert not list(tmp_path.glob("*.part"))
    assert files.read(kept.newest()).state["step"] == 1


def test_a_disk_that_fills_up_while_writing_leaves_nothing_half(tmp_path):
    """A limit on the size of files stands for the end of the disk: the system refuses the bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(NoSpaceError, match="The checkpoints before it are whole") as raised:
            files.write(tmp_path / "step_1", snapshot(1, numbers=50_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert raised.value.__cause__.errno == errno.EFBIG
    assert not list(tmp_path.iterdir())


def test_killed_at_two_hundred_points_of_a_write_the_newest_whole_one_loads(tmp_path):
    """A process forks writers and kills each a little later than the one before."""
    code = f"""
import os, signal, sys, time
import numpy as np
from keras_gemma.training import checkpoint_files as files
from keras_gemma.training.snapshot import Snapshot
from pathlib import Path
folder = Path({str(tmp_path)!r})
kept = files.CheckpointFiles(folder, 2)
array, done, ended = np.zeros(200_000, "float32"), 0, 0
began = time.perf_counter()
files.write(folder / "step_00000000.safetensors", Snapshot({{"weights/0/a": array}}, {{"step": 0}}))
took = time.perf_counter() - began
for step in range(1, 201):
    child = os.fork()
    if not child:
        array[:] = step
        shot = Snapshot({{"weights/0/a": array}}, {{"step": step}})
        files.write(folder / f"step_{{step:08}}.safetensors", shot)
        os._exit(0)
    time.sleep(1.5 * took * step / 200)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    path = kept.newest()
    found = files.read(path)
    assert (found.arrays["weights/0/a"] == found.state["step"]).all()
    assert found.state["step"] >= done, "an older one than before"
    ended += found.state["step"] > done
    done = found.state["step"]
assert not list(folder.glob("*.part"))
print(ended)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 0 < int(done.stdout.split()[-1]) < 200  # some came through, some did not
