import copy
import itertools

import pytest

from mdf_detectron.data.record_changes import hide_values, permute_records, remove_records


def make_records(patients=20):
    """Two images of each even patient, one of each odd one; every value tells its patient."""
    return [
        {"image_id": f"{p}-{i}", "patient_id": p, "clinical": {"age": p, "sex": f"s{p}"}}
        for p in range(patients)
        for i in range(2 - p % 2)
    ]


def test_nobody_keeps_their_own_row():
    records = make_records()
    before = copy.deepcopy(records)
    for seed in range(5):
        for record in permute_records(records, seed=seed):
            assert record["clinical"]["age"] != record["patient_id"]
            assert record["clinical"]["sex"] == f"s{record['clinical']['age']}"  # the row stays together
    assert records == before
    donors = {r["patient_id"]: r["clinical"]["age"] for r in permute_records(records)}
    assert sorted(donors.values()) == sorted(donors)  # every patient gives once


def test_one_column():
    for record in permute_records(make_records(), ["age"]):
        assert record["clinical"]["age"] != record["patient_id"]
        assert record["clinical"]["sex"] == f"s{record['patient_id']}"


def test_removed():
    assert remove_records(make_records(1), ["age"])[0]["clinical"] == {"age": None, "sex": "s0"}
    assert remove_records(make_records(1))[0]["clinical"] == {"age": None, "sex": None}


def test_hidden_cells():
    records = [{"image_id": i, "clinical": dict.fromkeys("abcd", i)} for i in range(400)]
    hidden = [{c for c, v in r["clinical"].items() if v is None} for r in hide_values(records, 0.5, seed=1)]
    assert {len(h) for h in hidden} == {2}
    assert len({frozenset(h) for h in hidden}) == 6  # every pair of columns
    assert all(sum(c in h for h in hidden) == pytest.approx(200, abs=40) for c in "abcd")
    assert hide_values(records, 0.5, seed=1) == hide_values(records, 0.5, seed=1) and records[0]["clinical"]["a"] == 0
    assert hide_values(records, 0.0) == records and hide_values(records, 1.0) == remove_records(records)
    assert hide_values([{"image_id": 1}], 0.5) == [{"image_id": 1, "clinical": {}}]
    with pytest.raises(ValueError, match="share must be"):
        hide_values(records, 1.5)


def test_a_smaller_share_is_among_a_larger_one_and_its_mean_is_exact():
    records = [{"image_id": i, "clinical": dict.fromkeys("abc", i)} for i in range(600)]
    kept = [[{c for c, v in r["clinical"].items() if v is not None} for r in hide_values(records, hidden)]
            for hidden in (0.25, 0.5, 0.75)]  # fmt: skip
    for larger, smaller in itertools.pairwise(kept):
        assert all(b <= a for a, b in zip(larger, smaller, strict=True)) and larger != smaller
    for columns, hidden in zip(kept, (0.25, 0.5, 0.75), strict=True):
        assert sum(map(len, columns)) / 600 == pytest.approx(3 * (1 - hidden), abs=0.07)


def test_errors():
    with pytest.raises(ValueError, match="between two patients at least; there are 1"):
        permute_records(make_records(1))
    with pytest.raises(ValueError, match="'weight'"):
        remove_records(make_records(), ["weight"])
