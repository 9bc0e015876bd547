"""Write reports: ``report.md`` with images, and ``report.html`` as one self-contained file."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from mdf_detectron.evaluation.estimates import Verdict, estimate, number
from mdf_detectron.evaluation.metrics import HEADLINE
from mdf_detectron.evaluation.summary import headline_row
from mdf_detectron.fileio import png_of, write_bytes, write_text
from mdf_detectron.report.tables import TABLE_TITLES, Table, build_tables, has_intervals

CHART_TITLES = {
    "metrics": "Metrics with intervals",
    "precision_recall": "Precision and recall",
    "froc": "Free-response ROC (FROC)",
    "threshold_sweep": "AP and AR by overlap threshold",
    "counts": "TP, FP and FN",
    "confusion": "Confusion matrix",
    "calibration": "Calibration of the scores",
    "subgroups": "Subgroup analysis",
}


def write_evaluation_report(out: str | Path, evaluation: dict[str, Any], charts: dict[str, Figure]) -> list[Path]:
    """Write the report of an evaluation, see :func:`write_report`.

    Args:
        evaluation: of :func:`~mdf_detectron.evaluation.summary.evaluate_models`.
        charts: of :func:`~mdf_detectron.report.charts.all_charts`.
    """
    sections = [Section(chart_title(name, evaluation), charts={name: figure}) for name, figure in charts.items()]
    sections += [Section(table.title, tables=[table]) for table in build_tables(evaluation)]
    return write_report(out, evaluation["title"], _verdicts(evaluation), _facts(evaluation), sections)


@dataclass(frozen=True)
class Section:
    """A part of a report: paragraphs, then charts (file name without suffix → figure), then tables."""

    title: str
    paragraphs: Sequence[str] = ()
    charts: Mapping[str, Figure] = field(default_factory=dict)
    tables: Sequence[Table] = ()


def write_report(
    out: str | Path, title: str, verdicts: Sequence[str], facts: Sequence[str], sections: Sequence[Section]
) -> list[Path]:
    """Write ``report.md``, ``report.html``, ``figures/*.png`` and ``tables/*.csv``; return the files.

    ``verdicts`` are highlighted sentences at the top, ``facts`` the paragraphs below them.
    """
    out, written, blocks = Path(out), [], []
    images = draw_charts(sections)
    written += [write_bytes(out / "figures" / f"{name}.png", image) for name, image in images.items()]
    for section in sections:
        written += [write_text(out / "tables" / f"{table.name}.csv", table.to_csv()) for table in section.tables]
        blocks += [f"## {section.title}", *section.paragraphs]
        blocks += [f"![{section.title}](figures/{name}.png)" for name in section.charts]
        for table in section.tables:
            heading = [] if table.title == section.title else [f"### {table.title}"]
            blocks += [part for part in (*heading, table.to_markdown(), table.note) if part]
    head = [f"# {title}", *(f"**{line}**" for line in verdicts), *facts]
    return [
        *written,
        write_text(out / "report.md", "\n\n".join([*head, *blocks]) + "\n"),
        write_page(out / "report.html", title, verdicts, facts, sections, images),
    ]


def draw_charts(sections: Sequence[Section]) -> dict[str, bytes]:
    """Draw the charts of the sections: name → PNG."""
    return {name: png_of(figure) for section in sections for name, figure in section.charts.items()}


def write_page(
    path: Path,
    title: str,
    verdicts: Sequence[str],
    facts: Sequence[str],
    sections: Sequence[Section],
    images: Mapping[str, bytes],
) -> Path:
    """Write one HTML file with all tables and the images of :func:`draw_charts`."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mdf_detectron.report"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    sources = {name: base64.b64encode(image).decode() for name, image in images.items()}
    page = environment.get_template("sections.html").render(
        title=title, verdicts=verdicts, facts=facts, sections=sections, images=sources
    )
    return write_text(path, page)


def chart_title(name: str, evaluation: dict[str, Any]) -> str:
    """Return the heading of a chart, with the model's name if it shows one of several."""
    stem, _, index = name.rpartition("_")
    if index.isdigit():
        return f"{CHART_TITLES[stem]}: {list(evaluation['models'])[int(index) - 1]}"
    return CHART_TITLES.get(name, name)


def _verdicts(evaluation: dict[str, Any]) -> list[str]:
    comparison = evaluation.get("comparison")
    if not comparison:
        return []
    first, second = evaluation["models"]
    verdict = Verdict.of(headline_row(comparison["differences"]))
    change = f"{HEADLINE[1]} of {TABLE_TITLES[HEADLINE[0]]} changes by"
    if verdict.direction is not None:
        text = f"{verdict.word}. {change} {verdict.numbers}."
    elif verdict.row["value"] is None:
        text = "not defined, the dataset has no ground-truth box."
    else:
        text = (
            f"{verdict.word}, fewer than two patients have a ground-truth box. {change} "
            f"{number(verdict.row['value'])} on these images."
        )
    return [f"{second} against {first}: {text}"]


def _facts(evaluation: dict[str, Any]) -> list[str]:
    summary = next(iter(evaluation["models"].values()))
    data, protocol = summary["dataset"], summary["protocol"]
    table, metric = HEADLINE
    lines = [
        f"Patients: {data['patients']}. Images: {data['images']}, of which {data['healthy_images']} healthy (without a "
        f"ground-truth box). Ground-truth boxes: {sum(data['boxes'].values())}. Classes: {len(data['boxes'])}."
    ]
    for name, one in evaluation["models"].items():
        value = estimate(one["metrics"][table][metric])
        lines.append(f"{name}: {metric} of {TABLE_TITLES[table]} {value}; {one['dataset']['detections']} detections.")
        lines += [f"{name}: {note}." for note in one["dataset"].get("unusual", ())]
    if protocol["area"] != "all":
        area = protocol["area"]
        area = area if isinstance(area, str) else f"{area[0]:g} to {area[1]:g} pixels²"
        lines.append(
            f"Metrics and counts are about ground-truth boxes of the area range {area}; FROC and the confusion matrix "
            "take all."
        )
    lines.append(
        f"At most {protocol['max_dets']} detections of an image and class. IoBB is the share of the predicted box "
        "inside the ground-truth box: a small box can reach 1, so IoU is shown too."
    )
    return [*lines, *_interval_facts(summary)]


def _interval_facts(summary: dict[str, Any]) -> list[str]:
    """Explain what the intervals cover, or why there are none."""
    data, protocol = summary["dataset"], summary["protocol"]
    if not has_intervals(summary):
        of = "the images belong to one patient" if data["patients"] == 1 else (
            f"{data['patients_with_boxes']} of {data['patients']} patients have a ground-truth box"
        )  # fmt: skip
        return [
            f"No intervals: they come from resampling patients and need two with a ground-truth box, but {of}. The "
            "values describe these images only. If the patient_id of the annotations is wrong, correct it and "
            "evaluate again."
        ]
    lines = [
        f"Intervals are 95 % and come from {protocol['num_resamples']} resamples of the patients; they cover the "
        "chance of the test set, not that of training. AP is biased upward on small test sets; a model's intervals "
        "allow for it and reach further down than up. A value of fewer than two patients has no interval."
    ]
    if data["images_without_patient_id"]:
        lines.append(
            f"{data['images_without_patient_id']} images have no patient id and are taken as patients of their own; "
            "if some belong together, the intervals are too narrow."
        )
    return lines
