"""Render the web page's answers as HTML, without writing files."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image

from mdf_detectron.inference.findings import DetectedFinding, StudyFindings
from mdf_detectron.inference.what_if import MatchedFinding
from mdf_detectron.report import CLASS_COLORS

LONGEST_SIDE = 1024
"""Maximum side of the image sent to the browser, in pixels."""

CSS = """
.mdf-views {display: flex; flex-wrap: wrap; gap: 12px}
.mdf-view {flex: 1 1 260px; min-width: 0; margin: 0}
.mdf-view svg {width: 100%; height: auto; display: block; background: #000; border-radius: 6px}
.mdf-view figcaption {font-weight: 600; padding: 4px 0}
.mdf-view text {paint-order: stroke; stroke: #000; stroke-width: 0.25em; stroke-linejoin: round}
.mdf-scroll {overflow-x: auto; max-width: 100%}
.mdf-table {border-collapse: collapse; width: 100%; font-size: 14px}
.mdf-table th, .mdf-table td {text-align: left; padding: 4px 6px; border: 0; border-bottom: 1px solid #8884}
.mdf-table td.num {text-align: right; font-variant-numeric: tabular-nums}
.mdf-swatch {display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 6px}
.mdf-table th:not(:first-child) {text-align: right}
.prose .mdf-table, .prose .mdf-table tr {border: 0}
.prose .mdf-table th, .prose .mdf-table td {border-width: 0 0 1px; border-color: #8884}
#record .form {display: grid; grid-template-columns: 1fr 1fr}
#record .form > * {min-width: 0 !important}
@media (max-width: 480px) {
  .mdf-table {font-size: 12px}
  .mdf-table th, .mdf-table td {padding: 4px 3px}
}
.mdf-error {color: #b3261e; font-weight: 600}
"""


def views(findings: Sequence[StudyFindings], titles: Sequence[str]) -> str:
    """Draw findings of one image side by side or, on a narrow screen, below each other."""
    if not findings:
        return ""
    url, scale = _data_url(findings[0].pixels)
    figures = [_view(one, title, url, scale) for one, title in zip(findings, titles, strict=True)]
    return f'<div class="mdf-views">{"".join(figures)}</div>'


def _data_url(pixels: np.ndarray) -> tuple[str, float]:
    image = Image.fromarray(pixels.squeeze())
    scale = min(1.0, LONGEST_SIDE / max(image.size))
    if scale < 1:
        image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}", scale


def _view(findings: StudyFindings, title: str, url: str, scale: float) -> str:
    width, height = findings.width, findings.height
    unit = max(width, height) / 400  # lines and letters look the same at every image size
    marks = [_mark(one, unit) for one in reversed(findings.above_threshold)]
    return (
        f'<figure class="mdf-view"><figcaption>{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}: '
        f'{len(findings.above_threshold)} findings">'
        f'<image href="{url}" width="{width}" height="{height}"/>{"".join(marks)}</svg></figure>'
    )


def _mark(finding: DetectedFinding, unit: float) -> str:
    x0, y0, x1, y1 = finding.box
    color = CLASS_COLORS[finding.class_index % len(CLASS_COLORS)]
    top = max(y0 - 3 * unit, 12 * unit)
    return (
        f'<g class="mdf-box"><rect x="{x0:.1f}" y="{y0:.1f}" width="{x1 - x0:.1f}" height="{y1 - y0:.1f}" fill="none" '
        f'stroke="{color}" stroke-width="{2 * unit:.2f}"/><text x="{x0:.1f}" y="{top:.1f}" fill="{color}" '
        f'font-size="{12 * unit:.1f}" font-family="sans-serif">{finding.score:.2f}</text></g>'
    )


def change_table(matched: Sequence[MatchedFinding], thresholds: dict[str, float]) -> str:
    """Return a table of findings with and without the record; scores above the threshold are bold."""
    shown = [m for m in matched if any(one and one.above_threshold for one in (m.before, m.after))]
    if not shown:
        return "<p>No finding reaches its operating threshold.</p>"
    rows = "".join(_row(m, thresholds) for m in shown)
    header = "".join(f"<th>{name}</th>" for name in ("finding", "with record", "without record", "threshold"))
    table = f'<table class="mdf-table"><thead><tr>{header}</tr></thead><tbody>{rows}</tbody></table>'
    return f'<div class="mdf-scroll">{table}</div>'


def _row(matched: MatchedFinding, thresholds: dict[str, float]) -> str:
    either = matched.after or matched.before
    swatch = (
        f'<span class="mdf-swatch" style="background:{CLASS_COLORS[either.class_index % len(CLASS_COLORS)]}"></span>'
    )
    cells = "".join(f'<td class="num">{_score(one)}</td>' for one in (matched.after, matched.before))
    name = escape(either.class_name)
    return f'<tr><td>{swatch}{name}</td>{cells}<td class="num">{thresholds[either.class_name]:.2f}</td></tr>'


def _score(finding: DetectedFinding | None) -> str:
    if finding is None:
        return "–"
    return f"<b>{finding.score:.2f}</b>" if finding.above_threshold else f"{finding.score:.2f}"


def error(message: str) -> str:
    return f'<p class="mdf-error" role="alert">{escape(message)}</p>'


def notes(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>" if lines else ""
