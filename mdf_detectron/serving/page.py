"""Serve a web page: an image, a form made from the schema, and findings with and without the record.

Images stay in the session's memory. Gradio stores an upload in a temporary file, in ``/dev/shm`` if there is one; it is
deleted as soon as it is read, and its folder at the end. :mod:`~mdf_detectron.serving.doors` guards the page.
"""

import base64
import io
import os
import secrets
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mdf_detectron.data.readers import OpenImage
from mdf_detectron.data.schema import ClinicalColumn
from mdf_detectron.data.sources.kit.values import write_number
from mdf_detectron.errors import ImageReadError, UserError
from mdf_detectron.fileio import shorten_path
from mdf_detectron.inference.findings import DetectedFinding, StudyFindings
from mdf_detectron.inference.predictor import Predictor, PreparedStudy
from mdf_detectron.inference.what_if import DISCLAIMER, MatchedFinding, match_findings
from mdf_detectron.report import CLASS_COLORS
from mdf_detectron.serving.doors import Door, is_loopback, uploads_folder

UNKNOWN = "not known"
MAX_MEGAPIXELS = 60
MAX_UPLOAD_MEGABYTES = 64
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


class StudyPage:
    """Answer the requests of one model's page; refuses images over ``max_megapixels`` before decoding them."""

    def __init__(self, predictor: Predictor, *, max_megapixels: float = MAX_MEGAPIXELS):
        self.predictor = predictor
        self.max_megapixels = max_megapixels
        self.columns: list[ClinicalColumn] = predictor.read_columns
        self._lock = threading.Lock()  # sessions share one model

    def load(self, upload: str | None) -> tuple[PreparedStudy | None, str]:
        """Read an upload and delete its file; return the study, or None and an error to show."""
        if upload is None:
            return None, ""
        path = Path(upload)
        name = shorten_path(path.name, 60)
        try:
            with OpenImage(path) as image:
                width, height = image.size
                if width * height > self.max_megapixels * 1e6:
                    raise ImageReadError(
                        f"the image has {width * height / 1e6:.0f} megapixels; this page takes at most "
                        f"{self.max_megapixels:g}, reduce it"
                    )
                return self.predictor.prepare(image, None, name=name), ""
        except UserError as cause:
            return None, error(str(cause).replace(str(path), name))
        except Exception as cause:  # decoders raise anything on broken files; the page stays up
            return None, error(f"{name}: cannot be read as an image ({type(cause).__name__})")
        finally:
            path.unlink(missing_ok=True)

    def record(self, values: tuple[Any, ...]) -> dict[str, Any]:
        """Return the record of the form's values, numbers written as in the table of the training data."""
        return {c.name: None if v == UNKNOWN else v for c, v in zip(self.columns, values, strict=True)}

    def answer(self, study: PreparedStudy | None, *values: Any) -> tuple[str, str, str]:
        """Predict with and without the form's record; return HTML of the views, the table and the messages."""
        if study is None:
            return "", "", error("Choose an image first.")
        try:
            studies = [self.predictor.with_record(study, None)]
            if self.columns:
                studies.insert(0, self.predictor.with_record(study, self.record(values)))
            with self._lock:
                found = [self.predictor.predict([one])[0] for one in studies]  # one by one, as in `mdf predict`
        except UserError as cause:
            return "", "", error(str(cause))
        titles = ["with the record", "without the record"] if self.columns else ["findings"]
        matched = match_findings(found[-1].findings, found[0].findings)
        lines = list(found[0].notes)
        if found[0].missing:
            lines.append(f"not known: {', '.join(found[0].missing)}")
        lines.append(f"thresholds: {self.predictor.threshold_source}")
        return views(found, titles), change_table(matched, found[0].thresholds), notes(lines)

    def load_and_answer(self, upload: str | None, *values: Any) -> tuple[PreparedStudy | None, str, str, str]:
        """Call :meth:`load`, then :meth:`answer`."""
        study, problem = self.load(upload)
        return (None, "", "", problem) if study is None else (study, *self.answer(study, *values))

    def slider_range(self, name: str) -> tuple[float, float, float]:
        """Return the ends of a column's slider (training range, within the legal one) and its start, the median."""
        column = next(c for c in self.columns if c.name == name)
        quantiles = self.predictor.contents["training"]["columns"][name]["quantiles"] or [0.0, 1.0]
        low, high = max(quantiles[0], column.minimum), min(quantiles[-1], column.maximum)
        return low, high if high > low else low + 1, quantiles[len(quantiles) // 2]


def build_page(page: StudyPage, title: str) -> Any:
    """Build the page as Gradio's ``Blocks``."""
    gr = _gradio()
    numeric, recipe = [c.name for c in page.columns if c.kind == "numeric"], page.predictor.schema.table
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(60, 60)) as blocks:
        gr.Markdown(f"# {title}\nResearch software, no medical device. {DISCLAIMER}")
        study = gr.State(None)
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                upload = gr.File(label="Image (PNG, JPEG, TIFF, DICOM)", height=140, elem_id="upload")
                with gr.Column(elem_id="record"):
                    fields = [_field(gr, column) for column in page.columns]
                button = gr.Button("Find", variant="primary", elem_id="find")
            with gr.Column(scale=2, min_width=300):
                message = gr.HTML(elem_id="message")
                views = gr.HTML(elem_id="views")
                table = gr.HTML(elem_id="table")
                if numeric:
                    gr.Markdown("### Move a value")
                    chosen = gr.Dropdown(numeric, value=numeric[0], label="Column", elem_id="column")
                    low, high, start = page.slider_range(numeric[0])
                    slider = gr.Slider(low, high, start, label=numeric[0], elem_id="slider")
        outputs = [views, table, message]
        options = {"concurrency_limit": 1, "concurrency_id": "model", "api_visibility": "private"}
        upload.upload(page.load_and_answer, [upload, *fields], [study, *outputs], **options)
        upload.clear(lambda: (None, "", "", ""), None, [study, *outputs], api_visibility="private")
        button.click(page.answer, [study, *fields], outputs, **options)
        if numeric:
            chosen.change(
                lambda n: gr.Slider(*page.slider_range(n), label=n), [chosen], [slider], api_visibility="private"
            )
            places = [i for i, column in enumerate(page.columns) if column.kind == "numeric"]
            moved = slider.release(
                lambda value, name: [write_number(value, recipe) if n == name else gr.skip() for n in numeric],
                [slider, chosen], [fields[i] for i in places], api_visibility="private",
            )  # fmt: skip
            moved.then(page.answer, [study, *fields], outputs, **options)
    return blocks


def _field(gr: Any, column: ClinicalColumn) -> Any:
    if column.kind == "categorical":
        return gr.Radio([*column.vocabulary, UNKNOWN], value=UNKNOWN, label=column.name, elem_id=f"field-{column.name}")
    unit = f" ({column.unit})" if column.unit else ""
    return gr.Textbox(
        label=f"{column.name}{unit}", placeholder=UNKNOWN, info=f"{column.minimum:g} to {column.maximum:g}",
        elem_id=f"field-{column.name}", max_lines=1,
    )  # fmt: skip


@contextmanager
def open_page(
    predictor: Predictor, *, host: str, port: int, title: str, names: Sequence[str] = ()
) -> Iterator[tuple[str, Any, Path]]:
    """Serve the page during a block; yield its URL, Gradio's blocks and the folder of uploads.

    Args:
        host: address to listen on; "127.0.0.1" is this machine alone. Others' requests need the token in the URL.
        names: host names under which browsers reach the page, besides ``host`` and this machine's.

    Raises:
        UserError: Gradio is not installed, or the port is taken.
    """
    token = "" if is_loopback(host) else secrets.token_urlsafe(32)
    own = ["localhost", *([socket.gethostname().lower(), socket.getfqdn().lower(), host.lower()] if token else [])]
    with uploads_folder() as folder:
        os.environ |= {"GRADIO_TEMP_DIR": str(folder), "GRADIO_ANALYTICS_ENABLED": "False",
                       "GRADIO_RUN_HISTORY": "False"}  # fmt: skip
        gr = _gradio()
        blocks = build_page(StudyPage(predictor), title)
        theme = gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
        door = (Door, (), {"names": own, "front": [name.lower() for name in names], "token": token,
                           "most_bytes": MAX_UPLOAD_MEGABYTES * 2**20})  # fmt: skip
        try:
            _, url, _ = blocks.launch(
                server_name=host, server_port=port, share=False, quiet=True, theme=theme, css=CSS,
                max_file_size=f"{MAX_UPLOAD_MEGABYTES}mb", footer_links=[], prevent_thread_lock=True,
                enable_monitoring=False, app_kwargs={"middleware": [door]},
            )  # fmt: skip
        except OSError as cause:
            raise UserError(f"the page cannot be started on {host}:{port} ({cause}); name another --port") from None
        try:
            yield f"{url}?token={token}" if token else url, blocks, folder
        finally:
            blocks.close(verbose=False)


def serve(predictor: Predictor, *, host: str, port: int, title: str, names: Sequence[str] = ()) -> None:
    """Serve the page until interrupted, see :func:`open_page`."""
    with open_page(predictor, host=host, port=port, title=title, names=names) as (url, blocks, _):
        if not is_loopback(host):
            url = url.replace("//localhost:", f"//{socket.gethostname()}:")  # Gradio's name of all addresses
            print("Other machines can reach this page, and only who opens this address with its token is let in. Token "
                  "and images travel unencrypted, unless a server with TLS stands before the page.")  # fmt: skip
        print(f"{title}: {url} (Ctrl+C ends it)", flush=True)
        blocks.block_thread()


def _gradio() -> Any:
    try:
        import gradio
    except ImportError:
        raise UserError("the page needs Gradio: pip install 'mdf_detectron[serve]'") from None
    return gradio


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
