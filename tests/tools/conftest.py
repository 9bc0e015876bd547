"""Running the command lines in this process, where the tests' datasets are registered."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture
def run(monkeypatch, capsys):
    """``run("evaluate", *arguments)``: what tools/evaluate.py prints; a mistake raises ``SystemExit`` with its text."""

    def call(tool: str, *arguments) -> str:
        monkeypatch.setattr(sys, "argv", [f"{tool}.py", *map(str, arguments)])
        runpy.run_path(str(TOOLS / f"{tool}.py"), run_name="__main__")
        return capsys.readouterr().out

    return call
