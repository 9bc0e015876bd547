"""Report matches, cleaning and contents of each class of the cohort."""

from collections.abc import Mapping, Sequence
from typing import Any

from mdf_detectron.data.prepared import Flow, PreparedImage
from mdf_detectron.data.sources.mimic.cleaning import AGE, clean_triage, outside
from mdf_detectron.data.sources.mimic.cohort import Cohort
from mdf_detectron.data.sources.mimic.schema import MIMIC_CLASSES
from mdf_detectron.data.sources.mimic.tables import MATCHED, UNMATCHED

Splits = Mapping[str, Sequence[PreparedImage]]

PUBLISHED = {"readings": 670, "images": 590, "patients": 540}
PUBLISHED_BOXES = dict(zip(MIMIC_CLASSES, (154, 143, 138, 112, 85), strict=True))
PUBLISHED_READINGS = 3052
"""The paper's cohort, and the readings of REFLACX that it started from."""


def list_details(splits: Splits, *, cohort: Cohort, flow: Flow, synthetic: bool) -> dict[str, Any]:
    readings, classes = cohort.readings, cohort.options.classes
    holders = {split: {name: _holders(records, number) for number, name in enumerate(classes, start=1)}
               for split, records in splits.items()}  # fmt: skip
    details = {
        "radiographs_by_match": cohort.radiograph_matches,
        "kept": {
            "readings": len(readings),
            "images": int(readings["dicom_id"].nunique()),
            "patients": int(readings["subject_id"].nunique()),
            "readings_without_triage_row": int((~readings["triaged"]).sum()),
            "readings_without_patient_row": int((~readings["known_patient"]).sum()),
        },
        "cleaning": cohort.cleaning.as_dict(),
        "cleaning_by_split": {name: _cleaned(cohort, records) for name, records in splits.items()},
        "changed": cohort.changed,
        "records_by_match": {
            name: {m: n for m in (*MATCHED, *UNMATCHED) if (n := sum(r.extra["match"] == m for r in records))}
            for name, records in splits.items()
        },
        "classes": holders,
    }
    tables = [_steps(cohort, details["kept"], flow)] if cohort.options.protocol == "paper" else []
    details["tables"] = tables + _tables(cohort, details, list(splits))
    return details | ({"synthetic": True} if synthetic else {})


def _steps(cohort: Cohort, kept: Mapping[str, int], flow: Flow) -> dict[str, Any]:
    """Tabulate the readings that are left after each of the authors' choices, next to the paper's numbers."""
    stage = next(stage for stage in flow.stages if stage["stage"] == "readings")
    left, rows = stage["in"], [("readings of the metadata", stage["in"], PUBLISHED_READINGS)]
    for reason, count in stage["dropped"].items():
        left -= count
        rows.append((f"minus: {reason}", left, ""))
    rows += [(f"{name} that are left", kept[name], count) for name, count in PUBLISHED.items()]
    boxes = cohort.boxes["label"].value_counts()
    rows += [(f"boxes of {name}", int(boxes[name]), PUBLISHED_BOXES.get(name, "")) for name in cohort.options.classes]
    return {"title": "The authors' cohort, step by step", "header": ["", "here", "paper"], "rows": rows}


def _holders(records: Sequence[PreparedImage], category: int) -> dict[str, int]:
    """Count the boxes of a class, and the records and patients that have at least one."""
    own = [(r, sum(a["category_id"] == category for a in r.annotations)) for r in records]
    holding = [r for r, n in own if n]
    return {"boxes": sum(n for _, n in own), "records": len(holding), "patients": len({r.patient_id for r in holding})}


def _cleaned(cohort: Cohort, records: Sequence[PreparedImage]) -> dict[str, dict[str, dict[str, int]]]:
    """Count cleaning of one split's triage values and ages."""
    stays = {r.extra["stay_id"] for r in records}
    log = clean_triage(cohort.triage[cohort.triage["stay_id"].isin(stays)], cohort.options.raw_values)[1]
    ids = {i for r in records for i in r.extra["reading_id"].split()}
    of_split = cohort.readings["reading_id"].isin(ids)
    log.remove("age", outside(AGE), count=(of_split & cohort.readings["age_removed"]).sum())
    return log.as_dict()


def _tables(cohort: Cohort, details: Mapping[str, Any], names: Sequence[str]) -> list[dict[str, Any]]:
    """Format the entries as tables of ``report.md``."""
    matches, by_split = details["radiographs_by_match"], details["cleaning_by_split"]
    kept = [(name.replace("_", " "), count) for name, count in (*details["kept"].items(), *details["changed"].items())]
    visits = [(m, matches[m], *(details["records_by_match"][s].get(m, 0) for s in names))
              for m in (*MATCHED, *UNMATCHED) if m in matches]  # fmt: skip
    classes = [(c, *(" / ".join(map(str, details["classes"][s][c].values())) for s in names))
               for c in details["classes"][names[0]]]  # fmt: skip
    cleaned = [
        (column, what, reason, count, *(by_split[s][what].get(column, {}).get(reason, 0) for s in names))
        for column, what, reason, count, _ in cohort.cleaning.rows()
    ]
    tables = [
        ("Readings, and boxes that were changed", ["", "count"], kept),
        ("Images and visits", ["the image is", "images of the table", *(f"records, {s}" for s in names)], visits),
        ("Classes (boxes / records / patients)", ["class", *names], classes),
        ("Cleaning of the whole triage table, and of the visits of each split",
         ["column", "value was", "reason", "whole table", *names], cleaned),
    ]  # fmt: skip
    return [{"title": title, "header": header, "rows": rows} for title, header, rows in tables if rows]
