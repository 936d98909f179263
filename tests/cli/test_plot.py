import json

import pytest

from keras_gemma.cli.curves import curve

pytestmark = pytest.mark.once


@pytest.fixture
def logged(tmp_path):
    records = [
        {"step": 20 * n, "steps": 100, "loss": 5.0 / n, "tokens_per_second": 1e3}
        for n in range(1, 6)
    ]
    records += [{"step": 100, "val_loss": 1.5}]
    lines = [json.dumps(record) + "\n" for record in records]
    (tmp_path / "log.jsonl").write_text("".join(lines) + '{"step": 120, "lo')  # killed meanwhile
    return tmp_path


def test_a_curve_is_drawn_in_the_terminal(run, logged):
    text = run("plot", logged).stdout
    assert "loss: 1 at step 100" in text and "val_loss: 1.5 at step 100" in text
    drawn = [line for line in text.splitlines() if "┤" in line or "│" in line]
    assert any("⠀" < letter <= "⣿" for line in drawn for letter in line)


def test_a_picture_is_written(run, logged, tmp_path):
    assert run("plot", logged, "--png", tmp_path / "a.png").exit_code == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_json_tells_the_points(run, logged):
    found = json.loads(run("plot", logged, "--what", "tokens_per_second", "--json").stdout)
    assert found == {"tokens_per_second": [[20 * n, 1000.0] for n in range(1, 6)]}


def test_what_is_not_there_is_told(run, logged, tmp_path):
    result = run("plot", logged, "--what", "losss")
    assert (result.exit_code, "It has loss, tokens_per_second" in result.stderr) == (2, True)
    result = run("plot", tmp_path / "nowhere")
    assert (result.exit_code, "no folder of a run" in result.stderr) == (1, True)


def test_a_curve_goes_through_its_points():
    lines = curve([0, 1, 2], [0, 1, 0], width=11, height=3)
    assert len(lines) == 5
    top, bottom = lines[0].split("┤")[1], lines[2].split("│")[1]
    assert top.strip() and len(top.rstrip()) < 9  # the peak is in the middle
    assert bottom[0] != " " and len(bottom) == 11  # both ends are at the bottom


def test_a_flat_curve_and_a_single_point_are_drawn():
    assert len(curve([5], [2.0])) == len(curve([1, 2], [3.0, 3.0])) == 12
