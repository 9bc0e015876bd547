"""Write the model card of a published model: training data, results and what is unknown."""

from collections.abc import Mapping
from typing import Any

from mdf_detectron.data.record_changes import EXCHANGED
from mdf_detectron.data.schema import ClinicalSchema
from mdf_detectron.evaluation.estimates import Verdict, number
from mdf_detectron.evaluation.summary import headline_row
from mdf_detectron.fileio import markdown_table
from mdf_detectron.report.tables import Table, build_tables, operating_point_table

DIAGRAM_SUFFIX = "_reliability.png"


def model_card(
    name: str, contents: Mapping[str, Any], sha256: str, evaluation: Mapping[str, Any] | None, half: bool
) -> str:
    """Write the card as Markdown.

    Args:
        name: file name of the model without suffix.
        contents: of the published checkpoint.
        sha256: digest of the published checkpoint.
        evaluation: of :func:`~mdf_detectron.model_zoo.publishing.evaluate_on_test`, or None.
        half: whether the weights have 16 bits.
    """
    software = ", ".join(f"{library} {version}" for library, version in contents["software"].items())
    parts = [
        f"# Model card: {name}",
        "A detector of mdf_detectron for medical images and clinical records. Research software, no medical device.",
        markdown_table(
            ("", ""),
            [
                ("classes", ", ".join(contents["class_names"])),
                ("reads", ", ".join(contents["columns"]) or "the image only"),
                ("image", _image(contents["image"])),
                ("weights", f"{'16' if half else '32'}-bit, SHA-256 `{sha256}`"),
                ("software", software),
            ],
        ),
        "## Training data",
        _training(contents),
        "## Results",
        *_results(contents, evaluation),
        "## Operating point and calibration",
        *_operating(name, contents),
        "## Does the model read the clinical record?",
        _record(contents, evaluation),
        "## What is not known",
        "\n".join(f"- {line}" for line in _unknown(contents)),
    ]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _image(image: Mapping[str, Any]) -> str:
    return f"{image['format']}, resized to {image['size']} × {image['size']} pixels ({image['resize']})"


def _training(contents: Mapping[str, Any]) -> str:
    training = contents["training"]
    columns = {column.name: column for column in ClinicalSchema.from_dict(contents["schema"]).columns}
    rows = []
    for name in contents["columns"]:
        column, seen = columns[name], training["columns"][name]
        if column.kind == "numeric":
            legal = f"{column.minimum:g} to {column.maximum:g}"
            q = seen["quantiles"]
            shown = f"{q[len(q) // 2]:g} ({q[0]:g} to {q[-1]:g})" if q else "no value"
        else:
            legal = ", ".join(column.vocabulary)
            shown = ", ".join(f"{value}: {count}" for value, count in seen["frequencies"].items())
        missing = 1 - seen["count"] / max(training["images"], 1)
        rows.append((name, column.unit or "–", legal, shown, f"{100 * missing:.0f} %"))
    text = f"{training['images']} images of {training['patients']} patients: {', '.join(training['datasets'])}."
    if not rows:
        return text
    header = ("column", "unit", "legal values", "median (range) or counts in training", "missing")
    return f"{text}\n\n{markdown_table(header, rows)}"


def _results(contents: Mapping[str, Any], evaluation: Mapping[str, Any] | None) -> list[str]:
    if evaluation is None:
        return ["Not measured."]
    summary = next(iter(evaluation["models"].values()))
    data = summary["dataset"]
    tables = build_tables({"models": evaluation["models"]})
    shown = [t for t in tables if t.name.endswith(("_metrics_bbox_iobb", "_metrics_bbox", "_subgroups"))]
    text = f"Test split {contents['results']['name']}: {data['images']} images of {data['patients']} patients."
    return [text, *(_table(table) for table in shown)]


def _table(table: Table) -> str:
    return f"**{table.title}**\n\n{table.to_markdown()}\n\n{table.note}"


def _operating(name: str, contents: Mapping[str, Any]) -> list[str]:
    parts = []
    if contents["operating_point"] is None:
        parts.append("No threshold was chosen on validation data: predictions are reported from a score of 0.5 on.")
    else:
        parts.append(_table(operating_point_table(contents["operating_point"])))
    calibration = contents["calibration"]
    if calibration is None:
        return [*parts, "The calibration of the scores was not measured."]
    return [
        *parts,
        f"Expected calibration error of the scores on {calibration['source']} ({calibration['detections']} "
        f"detections): {calibration['before']['error']:.3f}; with the stored temperature "
        f"{calibration['temperature']:.2f}, fitted on the same detections, {calibration['after']['error']:.3f}. A "
        "prediction's `probability` is its score after temperature scaling.",
        f"![Reliability diagram]({name}{DIAGRAM_SUFFIX})",
    ]


def _record(contents: Mapping[str, Any], evaluation: Mapping[str, Any] | None) -> str:
    if not contents["columns"]:
        return "The model does not read it."
    if evaluation is None:
        return "Not measured."
    verdict = Verdict.of(headline_row(evaluation["comparison"]["differences"]))
    return (
        f"{verdict.of_change(EXCHANGED)} AP50 by IoBB is {number(verdict.row['second'])} with the patient's own record "
        f"and {number(verdict.row['first'])} with another patient's: a difference of {verdict.numbers}. This compares "
        "one model with itself on this test split; whether the record helps, a study of it and an image-only model "
        "answers (mdf experiments does_it_help)."
    )


def _unknown(contents: Mapping[str, Any]) -> list[str]:
    lines = ["How the model does at another hospital, with other devices or other patients than those above."]
    missing = contents["missing_records"]
    if contents["columns"] and not (missing["dropout_record"] or missing["dropout_value"]):
        lines.append(
            "How it does without a clinical record: it was trained without clinical dropout, so it has seen only as "
            "many missing values as the training data held."
        )
    if contents["operating_point"] is None or contents["calibration"] is None:
        lines.append("How often its findings are right at the threshold in use.")
    else:
        lines.append("Whether its thresholds and probabilities hold on data other than the validation split.")
    if contents["training"]["synthetic"]:
        lines.append("Anything about patients: it was trained on synthetic data.")
    return lines
