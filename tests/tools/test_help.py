"""Every tool of the folder tools/ explains itself."""

import runpy
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
SCRIPTS = sorted(path.name for path in TOOLS.glob("*.py") if "__main__" in path.read_text())


def test_the_scripts_are_found():
    assert len(SCRIPTS) > 20 and {"benchmark.py", "train_net.py"} <= set(SCRIPTS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_tool_explains_itself(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    monkeypatch.syspath_prepend(str(TOOLS))
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(TOOLS / name), run_name="__main__")
    printed = capsys.readouterr().out
    assert not end.value.code and "usage:" in printed and len(printed) > 200
