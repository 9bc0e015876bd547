"""Every boundary refuses a few broken and hostile inputs with one line; tools/fuzz.py tries many more."""

import os
import time

import pytest
from fuzzing.boundaries import BOUNDARIES
from fuzzing.boundary import ACCEPTED, FAILURES, REFUSED, Boundary, expect
from fuzzing.images import dicom_files, raster_files
from fuzzing.runner import run_boundary

from mdf_detectron.errors import UserError

MUTATED = 12
"""Inputs of each boundary, beside the first attacks; all take a few seconds."""

ATTACKS = {"own data": 12, "upload": 5, "image": 14, "dicom": 14, "checkpoint": 24}
"""First attacks that are tried here; the later ones unpack to gigabytes."""


@pytest.mark.parametrize("name", BOUNDARIES)
def test_a_boundary_lets_nothing_in(name):
    boundary = BOUNDARIES[name]
    attacks = range(min(len(boundary.attacks), ATTACKS.get(name, 45)))
    numbers = [*attacks, *range(len(boundary.attacks), len(boundary.attacks) + MUTATED)]
    found = dict(run_boundary(boundary, numbers, seed=0))
    assert len(found) == len(numbers)
    failing = {number: (o.kind, o.text[-1500:]) for number, o in found.items() if o.kind in FAILURES}
    assert not failing
    assert sum(outcome.kind == REFUSED for outcome in found.values()) > len(attacks) // 2


@pytest.mark.parametrize("kind", ["raster", "dicom"])
def test_sound_images_are_accepted(tmp_path, kind):
    files = raster_files() if kind == "raster" else [(".dcm", content) for content in dicom_files()]
    check = BOUNDARIES["image" if kind == "raster" else "dicom"].check
    for suffix, content in files:
        (tmp_path / f"x{suffix}").write_bytes(content)
        check(tmp_path / f"x{suffix}", None)


# --- the fuzzer itself sees what it is there for


def _check(number, state):
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
        open(state / "outside" / "x").close()


def test_every_outcome_is_seen(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x").touch()
    boundary = Boundary("test", lambda folder: tmp_path, None, _check, [lambda f, s, n=n: n for n in range(12)])
    start = time.monotonic()
    found = {number: outcome.kind for number, outcome in run_boundary(boundary, range(12), 0, time_limit=0.5)}
    assert time.monotonic() - start < 60
    assert list(found.values()) == [ACCEPTED, REFUSED, "unnamed", "unnamed", "traceback", "accepted wrongly", "memory",
                                    "hang", "code or file", "traceback", "memory", "code or file"]  # fmt: skip
