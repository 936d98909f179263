"""Rules of the house that no linter knows."""

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "keras_gemma"
MODULES = sorted(PACKAGE.rglob("*.py"))
# The one that chooses the backend, those that know its memory, those that compile for it, and the
# one that asks for kernels made for it.
MAY_NAME_BACKENDS = (
    "backend.py",
    "arrays.py",
    "device_memory.py",
    "compilers.py",
    "graphs.py",
    "generation/compiled.py",
    "generation/compilation_cache.py",
    "generation/kernels.py",
    "generation/torch_step.py",
    "generation/cuda_loop.py",
    "layers/remat.py",
    "layers/splash.py",
    "layers/tied_lookup.py",
    "layers/torch_gradients.py",
    "layers/gated_gelu.py",
    "models/cross_entropy.py",
    "models/torch_cross_entropy.py",
    "optimizers/in_place.py",
)
LONGEST_FILE = 400


def name(path):
    return str(path.relative_to(ROOT))


def test_no_backend_is_asked_for_outside_its_file():
    found = []
    for path in MODULES:
        if path.relative_to(PACKAGE).as_posix().startswith(MAY_NAME_BACKENDS):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr == "backend":
                found.append(f"{name(path)}:{node.lineno}")
    # The command line has an option of that name and passes it on.
    assert not [place for place in found if "keras_gemma/cli/" not in place]


def test_no_backend_is_imported_outside_its_file():
    found = []
    for path in MODULES:
        place = path.relative_to(PACKAGE).as_posix()
        # These two are the TensorFlow graph path; they are imported when a tf.data set comes.
        if place.startswith((*MAY_NAME_BACKENDS, "text/graph_")):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module]
            for module in modules:
                if module.split(".")[0] in ("jax", "torch", "tensorflow", "tensorflow_text"):
                    found.append(f"{place}:{node.lineno} imports {module}")
    assert not found


def test_files_are_short():
    files = [*MODULES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    lengths = {name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert not {path: count for path, count in lengths.items() if count > LONGEST_FILE}


def test_every_module_says_what_it_is_for():
    bare = [p for p in MODULES if not ast.get_docstring(ast.parse(p.read_text(encoding="utf-8")))]
    assert not [name(path) for path in bare]


def test_public_things_have_docstrings():
    bare = []
    for path in MODULES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith("_"):
                continue
            if not ast.get_docstring(node) and path.parent.name != "cli":
                bare.append(f"{name(path)}: {node.name}")
    # Short helpers shared by the files of one folder, whose names say all.
    assert len(bare) <= 12, bare


def tracked():
    """The text files of the repository."""
    if not shutil.which("git") or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    for file in filter(None, listed.stdout.split("\0")):
        path = ROOT / file
        if not path.is_file():
            continue
        try:
            yield file, path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def test_nothing_in_the_repository_is_of_one_machine():
    # Spelled in two parts, or this file would be found.
    machine = re.compile(
        r"/(?:home|Users|roo"
        + r"t|wor"
        + r"k|op"
        + r"t)/\w|[A-Z]:\\\\Users|\blocalhost:\d|127\.0\.0\.\d:\d"
    )
    found = []
    for file, text in tracked():
        found += [f"{file}: {m[0]}" for m in machine.finditer(text)]
    assert not found


def test_no_file_is_large():
    """Weights of the bundled presets aside; those fit in 8 MB together."""
    sizes = {file: (ROOT / file).stat().st_size for file, _ in tracked()}
    assert not {file: size for file, size in sizes.items() if size > 1_000_000}
    bundled = sum(path.stat().st_size for path in (ROOT / "presets").rglob("*") if path.is_file())
    assert bundled <= 8_000_000
