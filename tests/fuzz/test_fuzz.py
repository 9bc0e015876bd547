"""Every boundary lets nothing broken or hostile in: a few inputs here, 2,000 of each by ``make fuzz``."""

import os
import time

import pytest
import torch
from boundaries import BOUNDARIES, DICOMS, HEADER, RASTER, ROWS, check_dicom, check_image, table_content
from hypothesis import HealthCheck, given, settings
from sandbox import ACCEPTED, REFUSED, Sandbox, expect

from mdf_detectron.errors import UserError

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", 25))
"""Inputs of each boundary; the same ones in every run where the variable is not set."""

LARGE = "FUZZ_EXAMPLES" in os.environ
GOOD = (ACCEPTED, REFUSED)


@pytest.fixture(params=BOUNDARIES)
def boundary(request, tmp_path, monkeypatch):
    torch.set_num_threads(1)  # those of OpenMP are not in a forked process
    return BOUNDARIES[request.param](tmp_path)


def test_hostile_inputs_are_refused(boundary):
    attacks = boundary.attacks if LARGE else boundary.attacks[: boundary.small]
    with Sandbox(boundary.check) as sandbox:
        found = {number: sandbox.run(attack) for number, attack in enumerate(attacks)}
    assert {number: outcome for number, outcome in found.items() if outcome.kind not in GOOD} == {}
    assert sum(outcome.kind == REFUSED for outcome in found.values()) > len(attacks) // 2


def test_broken_inputs_are_refused_or_sound(boundary):
    with Sandbox(boundary.check) as sandbox:

        @settings(max_examples=EXAMPLES, derandomize=not LARGE, suppress_health_check=list(HealthCheck))
        @given(boundary.inputs)
        def try_one(drawn):
            files, given = drawn

            def write(folder):
                for name, content in files.items():
                    (folder / name).parent.mkdir(exist_ok=True)
                    (folder / name).write_bytes(content)
                return given

            outcome = sandbox.run(write)
            assert outcome.kind in GOOD, f"{outcome.kind}: {outcome.text}"

        try_one()


@pytest.mark.parametrize(("name", "contents", "check"), [("image.png", RASTER, check_image),
                                                         ("image.dcm", DICOMS, check_dicom)])  # fmt: skip
def test_sound_images_are_accepted(tmp_path, name, contents, check):
    for content in contents:
        (tmp_path / name).write_bytes(content)
        check(tmp_path, None)


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".xlsx", ".parquet"])
def test_the_same_table_has_the_same_bytes(suffix):
    """Hypothesis draws places in them again when it repeats an input, and stops if the length is another."""
    first = table_content(suffix, [HEADER, *ROWS])
    time.sleep(1.01)  # workbooks and archives hold the second at which they were written
    assert table_content(suffix, [HEADER, *ROWS]) == first


# --- the sandbox itself sees what it is there for


def _check(folder, number):
    if number == 0:
        return
    if number == 1:
        raise UserError("x.yaml: no key 'a'")
    if number == 2:
        raise UserError("a line\n  and another")
    if number == 3:
        raise UserError("a word " * 80)
    if number == 4:
        raise KeyError("a")
    if number == 5:
        expect(False, "not sound")
    if number == 6:
        bytearray(3 << 30)
    if number == 7:
        while True:
            pass
    if number == 8:
        os.system("true")
    if number == 9:
        os.abort()
    if number == 10:
        try:
            bytearray(3 << 30)
        except MemoryError:
            raise UserError("x: not enough memory") from None
    if number == 11:
        open(folder.parent / "outside" / "secret.png").close()


def test_every_outcome_is_seen():
    start = time.monotonic()
    with Sandbox(_check, time_limit=0.5) as sandbox:
        found = [sandbox.run(lambda folder, n=n: n).kind for n in range(12)]
    assert time.monotonic() - start < 60
    assert found == [ACCEPTED, REFUSED, "unnamed", "unnamed", "traceback", "accepted wrongly", "memory", "hang",
                     "code or file", "traceback", "memory", "code or file"]  # fmt: skip
