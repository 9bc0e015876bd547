"""Shuffled rows: every row changes its patient, nothing else changes."""

import pytest

from mdf_detectron.data.row_shuffle import shuffle_rows

RECORDS = [{"patient_id": p, "image_id": i, "clinical": {"owner": p, "n": i}} for i, p in enumerate("aabcdd")]


@pytest.mark.parametrize("seed", range(20))
def test_no_image_keeps_its_own_patients_row(seed):
    out = shuffle_rows(RECORDS, seed)
    assert [r["image_id"] for r in out] == list(range(6))
    assert all(r["clinical"]["owner"] != r["patient_id"] for r in out)
    assert {r["clinical"]["owner"] for r in out} == set("abcd")
    assert [r["clinical"]["n"] for r in RECORDS] == list(range(6)), "the originals stay as they were"


def test_seeded_and_refused_for_one_patient():
    assert shuffle_rows(RECORDS, 3) == shuffle_rows(RECORDS, 3)
    with pytest.raises(ValueError, match="across 1 patient"):
        shuffle_rows(RECORDS[:2], 0)
