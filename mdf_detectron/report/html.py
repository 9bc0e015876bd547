"""The report: ``report.md`` with pictures beside it, and ``report.html``, one file that a phone can show."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from mdf_detectron.evaluation.summary import HEADLINE
from mdf_detectron.fileio import png_of, write_bytes, write_text
from mdf_detectron.report.tables import TABLE_TITLES, build_tables, estimate, p_text

CHART_TITLES = {
    "metrics": "Average precision with intervals",
    "precision_recall": "Precision and recall",
    "froc": "Sensitivity and false positives (FROC)",
    "threshold_sweep": "How the overlap threshold matters",
    "counts": "Found, made up, missed",
    "confusion": "Which class was taken for which",
    "subgroups": "For whom",
    "training": "Training: loss and generalization gap",
}


HTML = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #222; margin: 0 auto; max-width: 60rem; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
img { max-width: 100%; height: auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; }
th, td { border-bottom: 1px solid #ddd; padding: .25rem .6rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th { background: #f5f5f5; }
.note { color: #666; font-size: .85rem; }
.verdict { border-left: .3rem solid #1f6f8b; padding: .5rem 1rem; background: #f2f7f9; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
{% for line in verdicts %}<p class="verdict">{{ line }}</p>
{% endfor %}{% for line in facts %}<p>{{ line }}</p>
{% endfor %}{% for heading, source in charts %}<h2>{{ heading }}</h2>
<img alt="{{ heading }}" src="data:image/png;base64,{{ source }}">
{% endfor %}{% for table in tables %}<h2>{{ table.title }}</h2>
<div class="scroll"><table>
<thead><tr>{% for cell in table.header %}<th>{{ cell }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in table.rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody>
</table></div>
{% if table.note %}<p class="note">{{ table.note }}</p>{% endif %}
{% endfor %}</body>
</html>
"""


def write_report(out: str | Path, evaluation: dict[str, Any], charts: dict[str, Figure]) -> list[Path]:
    """Write tables, pictures and both reports.

    Args:
        out: folder; gets ``tables/*.csv``, ``figures/*.png``, ``report.md`` and ``report.html``.
        evaluation: ``{"title", "models": {name: summary}, "comparison": {...} (optional)}``.
        charts: of :func:`~mdf_detectron.report.charts.all_charts`.

    Returns:
        The files written.
    """
    out = Path(out)
    tables = build_tables(evaluation)
    written = [write_text(out / "tables" / f"{table.name}.csv", table.to_csv()) for table in tables]
    pictures: list[tuple[str, str, bytes]] = []
    for name, figure in charts.items():
        image = png_of(figure)
        written.append(write_bytes(out / "figures" / f"{name}.png", image))
        pictures.append((chart_title(name, evaluation), f"figures/{name}.png", image))
    verdicts, facts = _verdicts(evaluation), _facts(evaluation)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(HTML).render(
        title=evaluation["title"],
        verdicts=verdicts,
        facts=facts,
        charts=[(title, base64.b64encode(image).decode()) for title, _, image in pictures],
        tables=tables,
    )
    blocks = [f"# {evaluation['title']}", *(f"**{line}**" for line in verdicts), *facts]
    blocks += [f"## {title}\n\n![{title}]({link})" for title, link, _ in pictures]
    blocks += [f"## {table.title}\n\n{table.to_markdown()}\n\n{table.note}".rstrip() for table in tables]
    return [
        *written,
        write_text(out / "report.md", "\n\n".join(blocks) + "\n"),
        write_text(out / "report.html", page),
    ]


def chart_title(name: str, evaluation: dict[str, Any]) -> str:
    """Heading of a chart; a chart of one of several models names it."""
    stem, _, index = name.rpartition("_")
    if index.isdigit():
        return f"{CHART_TITLES[stem]}: {list(evaluation['models'])[int(index) - 1]}"
    return CHART_TITLES.get(name, name)


def _verdicts(evaluation: dict[str, Any]) -> list[str]:
    comparison = evaluation.get("comparison")
    if not comparison:
        return []
    first, second = evaluation["models"]
    table, metric = HEADLINE
    row = comparison["differences"][table][metric]
    if row["value"] is None:
        return [f"{second} against {first}: not defined, the dataset has no region to find."]
    return [
        f"{second} against {first}: {comparison['verdict']}. {metric} of {TABLE_TITLES[table]} changes by "
        f"{estimate(row)}, p {p_text(row['p_value'], row['least_p'])}."
    ]


def _facts(evaluation: dict[str, Any]) -> list[str]:
    lines = []
    summary = next(iter(evaluation["models"].values()))
    data, protocol = summary["dataset"], summary["protocol"]
    lines.append(
        f"{data['images']} images of {data['patients']} patients, {data['healthy_images']} of them healthy (without a "
        f"region); {sum(data['regions'].values())} regions of {len(data['regions'])} classes."
    )
    for name, one in evaluation["models"].items():
        value = one["metrics"][HEADLINE[0]][HEADLINE[1]]
        lines.append(
            f"{name}: {HEADLINE[1]} of {TABLE_TITLES[HEADLINE[0]]} {estimate(value)}; "
            f"{one['dataset']['detections']} detections."
        )
    if protocol["area"] != "all":
        area = protocol["area"]
        area = area if isinstance(area, str) else f"{area[0]:g} to {area[1]:g} pixels²"
        lines.append(f"AP, AR and counts are about regions of the area range {area}; FROC and confusion take all.")
    lines.append(
        f"At most {protocol['max_dets']} detections of an image and class. Intervals are 95 % and come from "
        f"{protocol['num_resamples']} resamples of the patients; they show the chance of the test set, not that of "
        "training. AP is too high on small test sets; a model's intervals allow for it and reach further down than up. "
        "IoBB is the share of the predicted box inside the annotated one: a small box can reach 1, so IoU is shown "
        "beside it."
    )
    if data["images_without_patient_id"]:
        lines.append(
            f"{data['images_without_patient_id']} images have no patient id and are taken as patients of their own; "
            "if some belong together, the intervals are too narrow."
        )
    return lines
