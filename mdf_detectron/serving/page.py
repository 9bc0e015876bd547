"""Serve a web page: an image, a form made from the schema, and findings with and without the record.

Images stay in the session's memory. Gradio stores an upload in a temporary file, in ``/dev/shm`` if there is one; it is
deleted as soon as it is read, and its folder at the end.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

from mdf_detectron.data.readers import OpenImage
from mdf_detectron.data.schema import ClinicalColumn
from mdf_detectron.errors import ImageReadError, UserError
from mdf_detectron.fileio import shorten_path
from mdf_detectron.inference.predictor import Predictor, PreparedStudy
from mdf_detectron.inference.what_if import DISCLAIMER, match_findings
from mdf_detectron.serving import study_view

UNKNOWN = "not known"
MAX_MEGAPIXELS = 60
MAX_UPLOAD_MEGABYTES = 64


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
            return None, study_view.error(str(cause).replace(str(path), name))
        except Exception as cause:  # decoders raise anything on broken files; the page stays up
            return None, study_view.error(f"{name}: cannot be read as an image ({type(cause).__name__})")
        finally:
            path.unlink(missing_ok=True)

    def record(self, values: tuple[Any, ...]) -> dict[str, Any]:
        """Return the record of the form's values."""
        pairs = zip(self.columns, values, strict=True)
        return {c.name: None if v in (None, UNKNOWN) else str(v).strip() for c, v in pairs}

    def answer(self, study: PreparedStudy | None, *values: Any) -> tuple[str, str, str]:
        """Predict with and without the form's record; return HTML of the views, the table and the messages."""
        if study is None:
            return "", "", study_view.error("Choose an image first.")
        try:
            studies = [self.predictor.with_record(study, None)]
            if self.columns:
                studies.insert(0, self.predictor.with_record(study, self.record(values)))
            with self._lock:
                found = [self.predictor.predict([one])[0] for one in studies]  # one by one, as in `mdf predict`
        except UserError as cause:
            return "", "", study_view.error(str(cause))
        titles = ["with the record", "without the record"] if self.columns else ["findings"]
        matched = match_findings(found[-1].findings, found[0].findings)
        lines = list(found[0].notes)
        if found[0].missing:
            lines.append(f"not known: {', '.join(found[0].missing)}")
        lines.append(f"thresholds: {self.predictor.threshold_source}")
        return (
            study_view.views(found, titles),
            study_view.change_table(matched, found[0].thresholds),
            study_view.notes(lines),
        )

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
    numeric = [column.name for column in page.columns if column.kind == "numeric"]
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
                lambda value, name: [f"{value:g}" if n == name else gr.skip() for n in numeric],
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


def serve(predictor: Predictor, *, host: str, port: int, title: str, block: bool = True) -> Any:
    """Start the page.

    Args:
        host: address to listen on; "127.0.0.1" is this machine alone.
        block: serve until interrupted; False returns the URL, Gradio's blocks and the folder of uploads.

    Raises:
        UserError: Gradio is not installed, or the port is taken.
    """
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = tempfile.mkdtemp(prefix="mdf_page_", dir=memory)
    os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
    gr = _gradio()
    blocks = build_page(StudyPage(predictor), title)
    theme = gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    try:
        _, url, _ = blocks.launch(
            server_name=host, server_port=port, share=False, quiet=True, theme=theme, css=study_view.CSS,
            max_file_size=f"{MAX_UPLOAD_MEGABYTES}mb", footer_links=[], prevent_thread_lock=True,
            enable_monitoring=False,
        )  # fmt: skip
        if not block:
            return url, blocks, folder
        print(f"{title}: {url} (Ctrl+C ends it)", flush=True)
        blocks.block_thread()
    except OSError as cause:
        raise UserError(f"the page cannot be started on {host}:{port} ({cause}); name another --port") from None
    finally:
        if block:
            shutil.rmtree(folder, ignore_errors=True)
    return None


def _gradio() -> Any:
    try:
        import gradio
    except ImportError:
        raise UserError("the page needs Gradio: pip install 'mdf_detectron[serve]'") from None
    return gradio
