import json
import sys
from types import ModuleType

import pytest

pytestmark = pytest.mark.once


@pytest.fixture
def found(monkeypatch):
    """What a fake `training.replay.replay` finds otherwise."""
    differences = []
    module = ModuleType("keras_gemma.training.replay")
    module.replay = lambda run, report: differences
    monkeypatch.setitem(sys.modules, "keras_gemma.training.replay", module)
    return differences


def test_the_same_is_said_and_exits_with_0(run, found, tmp_path):
    result = run("replay", tmp_path)
    assert (result.exit_code, "the same, bit for bit" in result.stdout) == (0, True)


def test_a_difference_is_said_and_exits_with_1(run, found, tmp_path):
    found.append("loss at step 20: 2.5 then, 2.6 now")
    result = run("replay", tmp_path)
    assert (result.exit_code, found[0] in result.stdout) == (1, True)
    result = run("replay", tmp_path, "--json")
    assert json.loads(result.stdout) == {"same": False, "differences": found}
    assert result.exit_code == 1
