"""README and docs are run: what they show must work, and what they name must exist."""

import re
import runpy
import shlex
import sys

import pytest
from blocks import PAGES, ROOT, blocks, need_presets
from click.testing import CliRunner


def name(path):
    return str(path.relative_to(ROOT))


@pytest.mark.once
@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=name)
def test_python_of_a_page_runs(page):
    """Its blocks share a namespace, first to last."""
    need_presets("".join(block.text for block in blocks(page, "python")))
    namespace = {"__name__": "__page__"}
    for block in blocks(page, "python"):
        code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
        exec(code, namespace)  # noqa: S102 - our own pages


def commands():
    for page in PAGES:
        for block in blocks(page, "sh"):
            for line in block.text.splitlines():
                for part in line.split(" #")[0].split("&&"):
                    if part.strip().startswith("keras-gemma "):
                        yield pytest.param(part.strip(), id=f"{name(page)}: {part.strip()}")


@pytest.mark.once  # a minute or more on PyTorch; what a verb calls is tested on all three
@pytest.mark.parametrize("command", list(commands()))
def test_command_of_a_page_runs(command):
    verb = command.split()[1]
    if verb == "generate" and "--preset" not in command:
        need_presets("gemma_tiny_en")
    need_presets(command)
    from keras_gemma.cli.main import verbs

    result = CliRunner().invoke(verbs, shlex.split(command)[1:], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert result.output.strip()


@pytest.mark.once
@pytest.mark.parametrize("page", [p for p in PAGES if p.parent.name != "presets"], ids=name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{name(page)} links to {target}"


@pytest.mark.once
def test_generated_parts_are_what_the_cards_say():
    generate = runpy.run_path(str(ROOT / "docs" / "generate.py"))
    stale = [name(path) for path in generate["outdated"]()]
    assert not stale, f"{stale}: python docs/generate.py writes them anew"


@pytest.mark.once
def test_test_command_of_the_readme_is_the_one_that_exists():
    text = "".join(block.text for block in blocks(ROOT / "README.md", "sh"))
    assert 'pip install -e ".[dev]" && python tests/run.py' in text
    assert (ROOT / "tests" / "run.py").is_file()
    assert str(ROOT) not in text and sys.prefix not in text


@pytest.mark.once
def test_files_that_the_architecture_page_names_exist():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    package = ROOT / "keras_gemma"
    tree, rest = text.split("## What may import what")
    folder, named = package, set()
    for line in tree.splitlines():
        if found := re.match(r"├── (\w+)/|└── (\w+)/", line):
            folder = package / (found[1] or found[2])
        elif found := re.match(r"├── (\w+\.py)", line):
            named.add(package / found[1])
        elif found := re.match(r"│   [├└]── ((?:\w+\.py ?)+)", line):
            named |= {folder / file for file in found[1].split()}
        elif line.startswith("presets/"):
            break
    # Paths from the package on, or from the top, in backticks.
    for path in re.findall(r"`(\w+/[\w/]+\.(?:py|json))`", rest):
        named.add(ROOT / path if path.startswith("presets/gemma") else package / path)
    assert len(named) > 40
    assert not [name(path) for path in sorted(named) if not path.exists()]


@pytest.mark.once
def test_architecture_page_leaves_no_file_out():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    package = ROOT / "keras_gemma"
    folders = [p for p in package.iterdir() if (p / "__init__.py").is_file()]
    assert not [p.name for p in folders if f"── {p.name}/" not in text]
    # Of these two folders the page names no single files.
    listed = [p for p in folders if p.name not in ("cli", "data")]
    files = [f for p in listed for f in p.glob("*.py") if f.name != "__init__.py"]
    assert not [name(f) for f in files if f.name not in text]
