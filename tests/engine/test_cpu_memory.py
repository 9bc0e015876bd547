"""What a process does with the memory that it frees, seen from the system."""

import ctypes
import logging
import subprocess
import sys

import pytest

from mdf_detectron.engine.cpu_memory import keep_freed_memory

SCRIPT = """
import resource, sys, torch
from mdf_detectron.engine.cpu_memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
for turn in range(12):
    torch.ones(10 * 2**20)
    if turn == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_a_map_of_40_mib_is_not_asked_of_the_system_ten_times():
    faults = {
        how: int(subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True).stdout)
        for how in ("keep", "default")
    }
    assert faults["keep"] < 0.1 * faults["default"], faults


def test_another_c_library_is_said_not_hidden(monkeypatch, caplog):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    with caplog.at_level(logging.INFO, "mdf_detectron.engine.cpu_memory"):
        assert keep_freed_memory() is False
    assert "has no such setting" in caplog.text
