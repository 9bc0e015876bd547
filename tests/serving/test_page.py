"""The web page in a real browser: Chromium of the system, driven by Playwright."""

import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dicom_files import radiograph, save
from forked import Forked, wait_for
from PIL import Image

from mdf_detectron import cli
from mdf_detectron.data.schema import ClinicalSchema, TableRecipe
from mdf_detectron.inference.predictor import Predictor
from mdf_detectron.report.html import Section, write_report
from mdf_detectron.report.tables import Table
from mdf_detectron.serving import page as page_module
from mdf_detectron.serving.doors import uploads_folder
from mdf_detectron.serving.page import StudyPage, open_page, views

CHROMIUM = shutil.which("chromium")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt-get install chromium)")


@pytest.fixture(scope="module")
def predictor(tiny_run):
    return Predictor(tiny_run / "model_final.pth", device="cpu", threshold=0.02)


@pytest.fixture(scope="module")
def address(predictor, free_ports):
    pytest.importorskip("gradio", reason="Gradio is not installed (extra serve)")
    (port,) = free_ports()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page_module, "MAX_UPLOAD_MEGABYTES", 2)
        with open_page(predictor, host="127.0.0.1", port=port, title="Test page") as (url, _, folder):
            yield url, folder
    assert not folder.exists()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def upload(page, path):
    if page.locator("#upload button[aria-label='Clear'], #upload button[aria-label='Remove this file']").count():
        page.locator("#upload button[aria-label='Clear'], #upload button[aria-label='Remove this file']").first.click()
    page.set_input_files("#upload input[type=file]", str(path))


def find(page, condition, arg=None):
    """Ask until the page answers as it should: Gradio drops a click while an earlier answer is on its way."""
    errors = pytest.importorskip("playwright.sync_api")
    for _ in range(8):
        page.click("#find")
        try:
            page.wait_for_function(condition, arg=arg, timeout=10000)
            return
        except errors.TimeoutError:
            continue
    raise AssertionError(f"the page never answered: {condition}")


@needs_browser
def test_a_study_in_the_browser(address, browser, predictor, tiny_folder, tmp_path):
    url, folder = address
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(90000)
    page.goto(url)
    image = tiny_folder / "images" / "test_2.png"
    upload(page, image)
    page.wait_for_selector(".mdf-box")
    assert [f.stat().st_size for f in folder.rglob("*") if f.is_file() and f.stat().st_size] == []  # uploads are gone
    page.fill("#field-age textarea, #field-age input", "43")
    find(page, "document.querySelector('#message').innerText.includes('not known: temperature, gender')")
    first = page.inner_html("#views")
    best = predictor(image, {"age": 43}).findings[0]
    assert f"{best.score:.2f}" in page.inner_text("#table") and best.class_name in page.inner_text("#table")
    page.fill("#field-age textarea, #field-age input", "47")
    find(page, "old => document.querySelector('#views').innerHTML !== old", first)  # boxes have changed

    page.fill("#field-age textarea, #field-age input", "500")
    find(page, "document.querySelector('.mdf-error')?.innerText.includes(': outside ')")
    page.fill("#field-age textarea, #field-age input", "old")
    find(page, "document.querySelector('.mdf-error')?.innerText.includes('not a number')")
    page.fill("#field-age textarea, #field-age input", "")
    find(page, "document.querySelector('.mdf-box') !== null")  # it is alive
    page.close()


@needs_browser
def test_a_dicom_file_and_a_slider_on_a_phone(address, browser, predictor, tiny_folder, tmp_path):
    pixels = np.asarray(Image.open(tiny_folder / "images" / "test_2.png"))
    path = save(radiograph(pixels, 8, Modality="DX", PatientName="Secret^Name"), tmp_path / "a.dcm")
    page = browser.new_page(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page.set_default_timeout(90000)
    page.goto(address[0])
    upload(page, path)
    page.wait_for_selector(".mdf-box")
    assert "Secret" not in page.content()  # nor any other tag of the file
    before = page.inner_html("#views")
    slider = page.locator("#slider input[type=range]").first
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    page.mouse.click(box["x"] + 0.98 * box["width"], box["y"] + box["height"] / 2)
    page.wait_for_function("old => document.querySelector('#views').innerHTML !== old", arg=before)  # boxes have moved
    moved = page.locator("#field-age textarea, #field-age input").first.input_value()
    assert 45 < float(moved) <= 47  # the form follows: training values go from 40 to 47
    best = predictor(path, {"age": moved}).findings[0]
    assert f"{best.score:.2f}" in page.inner_text("#table")
    page.evaluate("window.scrollTo(0, 0)")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1")  # nothing to scroll sideways
    page.close()


@needs_browser
def test_a_report_fits_a_phone(browser, tmp_path):
    """Long words break; wide tables and charts scroll or shrink within the page."""
    table = Table("t", "T", ["a column of a long name"] * 12, [["a value of some length"] * 12])
    long = "a" * 200
    write_report(tmp_path, long, [long], [long], [Section(long, [long], tables=[table])])
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(f"file://{tmp_path / 'report.html'}")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.close()


@needs_browser
def test_uploads_that_the_page_refuses(address, browser, tiny_folder, tmp_path):
    url, folder = address
    (tmp_path / "notes.txt").write_text("not an image")
    Image.new("1", (20000, 10000)).save(tmp_path / "huge.png")
    ct = save(radiograph(np.zeros((40, 40), np.uint8), 8, Modality="CT"), tmp_path / "ct.dcm")
    page = browser.new_page()
    page.set_default_timeout(90000)
    page.goto(url)
    for path, message in (
        (tmp_path / "notes.txt", "cannot read image"),
        (tmp_path / "huge.png", "200 megapixels"),
        (ct, "modality CT"),
    ):
        upload(page, path)
        page.wait_for_function("m => document.querySelector('.mdf-error')?.innerText.includes(m)", arg=message)
        assert str(folder) not in page.inner_text(".mdf-error")
    with open(tmp_path / "large.png", "wb") as file:
        file.truncate(3 * 2**20)
    upload(page, tmp_path / "large.png")
    page.wait_for_function("document.body.innerText.toLowerCase().includes('maximum allowed size')")
    page.reload()
    upload(page, tiny_folder / "images" / "test_2.png")
    page.wait_for_selector(".mdf-box")  # it is alive
    page.close()


def test_a_path_in_the_name_of_an_upload_reaches_nothing(address, tiny_folder, tmp_path):
    httpx = pytest.importorskip("httpx")
    url, folder = address
    content = (tiny_folder / "images" / "test_2.png").read_bytes()
    names = ["../../../../../.." + str(tmp_path / "a.png"), str(tmp_path / "b.png"), "..\\..\\c.png", "../d.png"]
    for name in names:
        answer = httpx.post(f"{url}gradio_api/upload", files={"files": (name, content, "image/png")})
        if answer.status_code == 200:  # stored under another name, where uploads belong
            (stored,) = answer.json()
            assert Path(stored).resolve().is_relative_to(folder.resolve()), stored
    assert list(tmp_path.iterdir()) == []
    assert {p.name for p in folder.parent.iterdir()} & {"a.png", "b.png", "c.png", "d.png"} == set()
    for path in ("/etc/hostname", f"{folder}/../../etc/hostname", __file__):
        assert httpx.get(f"{url}gradio_api/file={path}").status_code in (403, 404)


def test_requests_that_are_not_meant_for_the_page(address, tiny_folder):
    """A name that points here (DNS rebinding), another page's request, and files that together are too large."""
    httpx = pytest.importorskip("httpx")
    url, folder = address
    upload, port = f"{url}gradio_api/upload", url.rstrip("/").rpartition(":")[2]
    files = {"files": ("a.png", (tiny_folder / "images" / "test_2.png").read_bytes(), "image/png")}
    before = len(list(folder.rglob("*")))
    for headers in (
        {"Host": f"evil.example:{port}"}, {"Origin": "https://evil.example"}, {"Origin": "null"},
        {"Origin": f"http://127.0.0.1:{int(port) + 1}"}, {"Origin": f"http://localhost:{port}"},
    ):  # fmt: skip
        assert httpx.post(upload, files=files, headers=headers).status_code == 403, headers
        assert httpx.get(url, headers=headers).status_code == 403, headers
    several = [("files", (f"{n}.png", bytes(900_000), "image/png")) for n in range(3)]  # each below the limit
    assert httpx.post(upload, files=several).status_code == 413
    assert httpx.post(upload, content=iter([bytes(900_000)] * 3)).status_code == 413, "chunks, of no stated length"
    assert len(list(folder.rglob("*"))) == before, "nothing was stored"
    assert httpx.post(upload, files=files, headers={"Origin": f"http://127.0.0.1:{port}"}).status_code == 200


def test_a_page_for_others_asks_for_its_token(predictor, free_ports):
    httpx = pytest.importorskip("httpx")
    pytest.importorskip("gradio", reason="Gradio is not installed (extra serve)")
    (port,) = free_ports()
    with open_page(predictor, host="0.0.0.0", port=port, title="x", names=["Ward.Example"]) as (url, _, _):
        page, _, token = url.partition("?token=")
        assert len(token) > 40
        for wrong in (page, f"{page}?token=", f"{page}?token={token[:-1]}", f"{page}gradio_api/info"):
            for cookies in ({}, {"mdf_token": ""}, {"mdf_token": token[:-1]}):
                assert httpx.get(wrong, cookies=cookies).status_code == 401
        with httpx.Client(follow_redirects=True) as visitor:
            opened = visitor.get(url)
            assert opened.status_code == 200 and token not in str(opened.url) and visitor.get(page).status_code == 200
            assert visitor.get(page, headers={"Host": "evil.example"}).status_code == 403
            assert visitor.get(page, headers={"Host": "ward.example", "Origin": "https://ward.example"}).is_success


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
def test_uploads_do_not_outlive_a_killed_page(tmp_path):
    def serve_forever():
        with uploads_folder(tmp_path) as folder:
            folder.mkdir()
            (folder / "patient.dcm").write_bytes(b"x")
            time.sleep(600)

    pages = [Forked(serve_forever) for _ in range(2)]
    wait_for(lambda: len(list(tmp_path.glob("*/uploads/patient.dcm"))) == 2)
    os.kill(pages[0].pid, signal.SIGKILL)
    pages[0].wait()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / ".lock").write_text("mine")
    with uploads_folder(tmp_path) as folder:
        left = list(tmp_path.glob("*/uploads/patient.dcm"))
        assert len(left) == 1 and folder.parent.is_dir(), "the other page still runs"
    os.kill(pages[1].pid, signal.SIGTERM)
    pages[1].wait()
    assert (tmp_path / "elsewhere" / ".lock").read_text() == "mine"


def test_an_upload_is_deleted_whatever_it_holds(predictor, tmp_path, tiny_folder):
    page = StudyPage(predictor, max_megapixels=0.005)
    for name, content in (("a.png", (tiny_folder / "images" / "test_1.png").read_bytes()), ("b.dcm", b"x" * 200)):
        path = tmp_path / name
        path.write_bytes(content)
        study, message = page.load(str(path))
        assert study is None and "mdf-error" in message and not path.exists() and str(tmp_path) not in message
    assert page.answer(None)[2].startswith('<p class="mdf-error"')


def test_a_typed_record_is_read_as_the_table_of_training(predictor, tiny_folder, monkeypatch):
    page = StudyPage(predictor)
    study = predictor.prepare(tiny_folder / "images" / "test_1.png")
    values = {"age": "> 89", "temperature": "98,6", "gender": "F"}
    form = [values[column.name] for column in page.columns]
    assert "temperature" in (said := page.answer(study, *form)[2]) and "a decimal comma" in said
    monkeypatch.setattr(predictor, "schema", replace(predictor.schema, table=TableRecipe(decimal_comma=True)))
    assert predictor.with_record(study, page.record(form)).record == {"age": 89, "temperature": 98.6, "gender": "F"}
    mapped = [replace(c, mapping={"F": "M"}, missing=(99.9,)) if c.name != "age" else c for c in page.columns]
    monkeypatch.setattr(predictor, "schema", ClinicalSchema(tuple(mapped)))  # the form offers words, no spellings
    for temperature in ("99.9", 99.9):
        record = page.record(tuple({**values, "temperature": temperature}[column.name] for column in page.columns))
        assert predictor.with_record(study, record).record == {"age": 89, "temperature": None, "gender": "F"}


def test_names_cannot_bring_markup(predictor):
    pixels = np.full((40, 50), 128, np.uint8)
    found = predictor(pixels)
    assert "<script>" not in views([found], ["<script>alert(1)</script>"])


def test_the_command_serves_this_machine_alone(tiny_run, monkeypatch):
    served = {}
    monkeypatch.setattr(page_module, "serve", lambda predictor, **options: served.update(options, of=predictor.digest))
    cli.main(["serve", str(tiny_run / "model_final.pth"), "--port", "8080", "--device", "cpu"])
    assert (served["host"], served["port"], served["title"]) == ("127.0.0.1", 8080, "Findings: model_final")
    assert served["of"] == Predictor(tiny_run / "model_final.pth", device="cpu").digest
