"""What a process does with the memory that it frees, seen from the system."""

import ctypes
import logging
import subprocess
import sys

import pytest

from mdf_detectron.threads import keep_freed_memory

SCRIPT = """
import resource, sys
sys.argv = ["mdf"]  # which imports the package without torch
from mdf_detectron.threads import keep_freed_memory

def faults():
    for turn in range(40):  # small blocks at the heap's end may move the first maps; then every map finds its place
        bytearray(40 * 2**20)
        if turn == 29:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

default = faults()
if not keep_freed_memory():
    sys.exit("refused")
print(default, faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_a_map_of_40_mib_is_not_asked_of_the_system_ten_times():
    result = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    if result.stderr.strip() == "refused":
        pytest.skip("needs glibc 2.35 or newer")
    default, kept = map(int, result.stdout.split())
    assert kept < 0.1 * default, result.stdout


class OldLibrary:
    """Refuses the threshold of maps, as glibc before 2.35 does."""

    def __init__(self):
        self.taken = []

    def mallopt(self, option, value):
        self.taken += [option] if option != -3 else []
        return option != -3


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
@pytest.mark.parametrize("library", [OldLibrary(), object()], ids=["old", "without mallopt"])
def test_a_library_that_cannot_is_left_alone_and_said(library, monkeypatch, caplog):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    with caplog.at_level(logging.INFO, "mdf_detectron.threads"):
        assert keep_freed_memory() is False
    assert "the C library cannot keep it" in caplog.text
    assert getattr(library, "taken", []) == []
