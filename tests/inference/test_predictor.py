"""A predictor's findings equal the evaluator's predictions; records and images are checked."""

import io
import json
import multiprocessing
import re

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from detectron2.structures import pairwise_iou
from dicom_files import radiograph, save
from PIL import Image

from mdf_detectron.checkpoint.checkpoint import CONFIG_KEY, DIGEST_KEY, Checkpoint, signed
from mdf_detectron.data.raster import write_png
from mdf_detectron.errors import CheckpointError, ConfigError, DatasetError, ImageReadError
from mdf_detectron.inference.predictor import Predictor

RECORD = {"age": 43, "temperature": 98.6, "gender": "F"}


@pytest.fixture
def image(tiny_folder):
    return tiny_folder / "images" / "test_2.png"


def test_predictions_equal_the_evaluators_to_the_last_digit(tiny_predictor, tiny_run, tiny_folder, annotations_of):
    expected = json.loads((tiny_run / "inference" / "tiny_cxr_test" / "coco_instances_results.json").read_text())
    found = []
    for image in annotations_of(tiny_folder, "test")["images"]:
        found += tiny_predictor(tiny_folder / "images" / image["file_name"], image["clinical"]).to_coco(image["id"])
    assert len(expected) > 4 and {r["category_id"] for r in expected} <= {1, 2}
    assert json.loads(json.dumps(found)) == expected


def test_mixed_precision_of_the_training_changes_nothing_on_a_cpu(tiny_predictor, tiny_run, image, tmp_path):
    data = Checkpoint.open(tiny_run / "model_final.pth").data
    data[CONFIG_KEY] = re.sub(r"(AMP:\s+ENABLED:) false", r"\1 true", data[CONFIG_KEY], count=1)
    torch.save(signed(data), tmp_path / "amp.pth")
    assert "true" in re.search(r"AMP:\s+ENABLED: (\w+)", data[CONFIG_KEY])[1]
    found = Predictor(tmp_path / "amp.pth", device="cpu")
    assert not found.half and not tiny_predictor.half
    assert found(image, RECORD).to_coco() == tiny_predictor(image, RECORD).to_coco()
    with pytest.raises(ConfigError, match="float16 needs a GPU"):
        Predictor(tmp_path / "amp.pth", device="cpu", half=True)


@pytest.mark.parametrize("half", [False, True])
def test_the_model_runs_in_the_precision_of_the_predictor(tiny_run, image, half, monkeypatch):
    """On a CPU the switch turns on the CPU's autocast, which has the precision of float16, too."""
    found = Predictor(tiny_run / "model_final.pth", device="cpu")
    whole = found(image, RECORD)
    found.half, autocast, types = half, torch.autocast, set()
    monkeypatch.setattr(torch, "autocast", lambda device, **options: autocast("cpu", **options))
    found.model.roi_heads.box_head.register_forward_hook(lambda module, inputs, output: types.add(output.dtype))
    other = found(image, RECORD)
    assert types == {torch.float16 if half else torch.float32}
    assert other.instances.scores.dtype == torch.float32
    assert_nearly_equal(whole, other)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_half_precision_on_a_gpu_finds_nearly_the_same(tiny_run, image):
    whole, half = (Predictor(tiny_run / "model_final.pth", device="cuda", half=half) for half in (False, True))
    assert half.half and not whole.half
    assert_nearly_equal(whole(image, RECORD), half(image, RECORD))


def assert_nearly_equal(one, other):
    """The best findings agree; if scores are nearly equal, order and the last findings may differ."""
    best, same = one.instances[one.instances.scores.argsort(descending=True)[:3]], other.instances
    overlaps = pairwise_iou(best.pred_boxes, same.pred_boxes) * (best.pred_classes[:, None] == same.pred_classes)
    assert len(best) and overlaps.max(dim=1).values.min() > 0.9
    scores = same.scores[overlaps.argmax(dim=1)]
    assert torch.allclose(best.scores, scores, atol=0.01), (best.scores, scores)


def test_the_dict_and_the_coco_results_agree(tiny_predictor, image):
    findings = tiny_predictor(str(image), RECORD)
    said, coco = findings.to_dict(), findings.to_coco(7)
    assert (said["width"], said["height"]) == (96, 80) and said["record"] == RECORD and said["missing"] == []
    assert len(said["findings"]) == len(coco) > 0
    for one, other in zip(said["findings"], coco, strict=True):
        x, y, w, h = other["bbox"]
        assert one["box"] == pytest.approx([x, y, x + w, y + h], abs=1e-4) and one["score"] == other["score"]
        assert 0 <= one["box"][0] < one["box"][2] <= 96 and 0 <= one["box"][1] < one["box"][3] <= 80
    assert findings.findings[0].mask.shape == (80, 96)
    json.dumps(said, allow_nan=False)


def test_the_record_matters_and_its_absence_is_told(tiny_predictor, image):
    whole, none = tiny_predictor(image, RECORD), tiny_predictor(image)
    assert whole.to_coco() != none.to_coco()
    assert none.missing == ["age", "temperature", "gender"]
    assert any("age, gender: never missing in training" in note for note in none.notes)  # temperature was missing once
    partial = tiny_predictor(image, {"age": "43", "temperature": None, "gender": ""})
    assert partial.record == {"age": 43.0, "temperature": None, "gender": None}


def test_what_is_illegal_is_refused_and_what_is_unusual_is_told(tiny_predictor, image):
    for record, message in (
        ({"Age": 43}, "unknown clinical column"),
        ({"temperature": 37}, "outside its legal range"),  # °C; the model was trained in °F
        ({"gender": "X"}, "the schema allows"),
        ({"age": "old"}, "not a number"),
    ):
        with pytest.raises(DatasetError, match=message):
            tiny_predictor(image, record)
    notes = tiny_predictor(image, {**RECORD, "age": 100}).notes
    assert notes == ["age 100 is outside the training range [40, 47]; the model extrapolates"]


def test_arrays_files_and_batches_agree(tiny_predictor, image, tiny_folder):
    pixels = np.asarray(Image.open(image))
    expected = tiny_predictor(image, RECORD).to_dict()["findings"]
    for other in (pixels, pixels[:, :, None], np.repeat(pixels[:, :, None], 3, axis=2), Image.open(image)):
        assert tiny_predictor(other, RECORD).to_dict()["findings"] == expected
    images = [tiny_folder / "images" / f"test_{i}.png" for i in range(3)]
    together = tiny_predictor.predict_batch(images, [RECORD, None, {}])
    for one, alone in zip(
        together, [tiny_predictor(images[0], RECORD), tiny_predictor(images[1]), tiny_predictor(images[2])], strict=True
    ):
        assert len(one.findings) == len(alone.findings)
        torch.testing.assert_close(one.instances.scores, alone.instances.scores, atol=1e-5, rtol=1e-4)
    assert tiny_predictor.predict_batch([]) == []
    with pytest.raises(DatasetError, match="2 image"):
        tiny_predictor.predict_batch(images[:2], [RECORD])


@pytest.mark.parametrize("kind", ["16 bits", "12 bits", "float", "int32", "alpha", "16-bit color", "EXIF", "1 bit"])
def test_every_kind_of_image_gives_what_its_file_gives(tiny_predictor, tmp_path, kind):
    rng = np.random.default_rng(3)
    deep = (rng.integers(0, 65536, (80, 96)) * np.linspace(0.2, 1, 96)).astype(np.uint16)
    samples = {
        "16 bits": deep, "12 bits": deep // 16, "float": deep.astype(np.float32) / 7 - 3, "1 bit": deep > 9999,
        "int32": deep.astype(np.int32) - 999, "EXIF": (deep // 256).astype(np.uint8),
        "alpha": rng.integers(0, 256, (80, 96, 4)).astype(np.uint8),
        "16-bit color": np.stack([deep, deep // 2, deep], 2),
    }[kind]  # fmt: skip
    file = tmp_path / ("image.tif" if kind in ("float", "int32") else "image.png")
    exif = Image.Exif()
    exif[274] = 6
    if kind == "16-bit color":
        cv2.imwrite(str(file), samples[:, :, ::-1])
    else:
        Image.fromarray(samples).save(file, **({"exif": exif} if kind == "EXIF" else {}))
    stream = io.BytesIO(file.read_bytes())
    stream.seek(0, io.SEEK_END)
    given = [file.read_bytes(), stream, open(file, "rb")]
    if kind == "16-bit color":  # of which Pillow keeps eight bits
        cv2.imwrite(str(tmp_path / "image.tif"), samples)
        loaded = Image.open(file)
        loaded.load()
        for one in (Image.open(file), loaded, Image.open(stream), Image.open(tmp_path / "image.tif")):
            with pytest.raises(ImageReadError, match="its 16-bit color .* Pillow keeps eight bits of it: give"):
                tiny_predictor.prepare(one, RECORD)
    else:
        given.append(Image.open(file))
    if kind != "EXIF":
        first = samples if samples.ndim == 2 else samples.transpose(2, 0, 1)
        given += [samples, first, torch.from_numpy(first.astype(np.int32) if kind == "12 bits" else first)]
    if samples.ndim == 2 and kind != "EXIF":
        given += [samples[:, :, None], np.stack([samples] * 3, 2), np.stack([samples] * 3)]
    expected = tiny_predictor.prepare(file, RECORD)
    assert expected.model_input["image"].std() > 1
    for number, one in enumerate(given):
        study = tiny_predictor.prepare(one, RECORD)
        assert torch.equal(study.model_input["image"], expected.model_input["image"]), number
        assert np.array_equal(study.pixels, expected.pixels) and study.notes == expected.notes
    assert ("EXIF orientation applied" in expected.notes) == (kind == "EXIF")


def test_a_dicom_file_in_memory_is_its_file(tiny_predictor, tmp_path):
    pixels = (np.arange(7680, dtype=np.uint16) % 4096).reshape(80, 96)
    path = save(radiograph(pixels, Modality="DX"), tmp_path / "a.dcm")
    one, other = (tiny_predictor.prepare(x) for x in (path, path.read_bytes()))
    assert torch.equal(one.model_input["image"], other.model_input["image"]) and other.image == "image"


def test_a_series_is_a_record(tiny_predictor, image):
    series = pd.Series({**RECORD, "age": 43, "temperature": np.float32("nan")}, dtype=object)
    table = pd.DataFrame([{"age": 43, "gender": pd.NA}]).convert_dtypes()
    assert tiny_predictor(image, series).record == {"age": 43, "temperature": None, "gender": "F"}
    assert tiny_predictor(image, table.iloc[0]).record == {"age": 43, "temperature": None, "gender": None}
    with pytest.raises(DatasetError, match=r"the record is \[43\]; expected column"):
        tiny_predictor(image, [43])


def _in_a_fork(predictor, image, queue):
    queue.put(predictor(image, RECORD).to_coco())


def test_a_forked_process_predicts(tiny_run, image):
    """Without one thread in forks it waits forever for the threads that its parent had."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        predictor = Predictor(tiny_run / "model_final.pth", device=torch.device("cpu"))
        expected = predictor(image, RECORD).to_coco()
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        process = context.Process(target=_in_a_fork, args=(predictor, image, queue))
        process.start()
        found = queue.get(timeout=30)
        process.join(5)
    finally:
        process.kill()
        torch.set_num_threads(before)
    assert [one["category_id"] for one in found] == [one["category_id"] for one in expected]


def test_a_forked_process_cannot_use_its_parents_gpu_and_says_so(tiny_run, image, monkeypatch):
    predictor = Predictor(tiny_run / "model_final.pth", device="cpu")
    error = RuntimeError("Cannot re-initialize CUDA in forked subprocess. To use CUDA with multiprocessing, …")
    monkeypatch.setattr(predictor.model, "forward", lambda inputs: (_ for _ in ()).throw(error))
    with pytest.raises(ConfigError, match="make the Predictor in it, or start it by spawn"):
        predictor(image, RECORD)


def test_what_is_no_image_is_refused(tiny_predictor, tmp_path):
    (tmp_path / "notes.txt").write_text("text")
    for image, message in (
        (np.zeros((4, 4), complex), "complex"), (np.zeros((0, 4), np.uint8), "uint8"), (np.zeros(4, np.uint8), "uint8"),
        (np.zeros((2, 3, 4, 4), np.uint8), "several images go to predict_batch"), (np.zeros((4, 4, 4)), "float64"),
        ([np.zeros((4, 4), np.uint8)], "a list is no image"), (open(tmp_path / "notes.txt"), "binary file"),
        (b"text", "<bytes>: it is no image"), (None, "a NoneType is no image"),
        (tmp_path / "notes.txt", "notes.txt"), (tmp_path / "absent.png", "no image file at"),
    ):  # fmt: skip
        with pytest.raises(ImageReadError, match=message):
            tiny_predictor(image)


def test_thresholds(tiny_run, tiny_predictor, image):
    path = tiny_run / "model_final.pth"
    assert tiny_predictor.threshold_source == "0.5, not chosen on data"
    given = Predictor(path, device="cpu", threshold={"dark": 0.0})(image, RECORD)
    assert given.thresholds == {"bright": 0.5, "dark": 0.0}
    assert {f.class_name for f in given.above_threshold} >= {"dark"} & {f.class_name for f in given.findings}
    assert len(Predictor(path, device="cpu", threshold=0.0)(image).above_threshold) == len(
        tiny_predictor(image).findings
    )
    with pytest.raises(ConfigError, match="unknown classes"):
        Predictor(path, device="cpu", threshold={"drak": 0.1})
    for outside in (50, -0.1, float("nan"), {"dark": 1.5}):
        with pytest.raises(ConfigError, match="scores are from 0 to 1"):
            Predictor(path, device="cpu", threshold=outside)
    for device, message in (("gpu", "expected cpu, cuda"), ("cuda:99", "this machine has")):
        with pytest.raises(ConfigError, match=message):
            Predictor(path, device=device)


def test_an_image_only_model_takes_a_record_and_says_that_it_does_not_read_it(tiny_image_only_predictor, image):
    with_record, without = (tiny_image_only_predictor(image, record) for record in (RECORD, None))
    assert with_record.to_coco() == without.to_coco() and with_record.record == {} and with_record.missing == []
    assert with_record.notes == ["the model does not read age, temperature, gender"]


def test_checkpoints_that_are_not_enough_are_refused(tiny_run, tmp_path):
    data = Checkpoint.open(tiny_run / "model_final.pth").data
    later = signed({**data, "contents": {**data["contents"], "format": 99}})
    without = {key: {k: v for k, v in data.items() if k not in (key, DIGEST_KEY)} for key in ("contents", CONFIG_KEY)}
    unsigned = {key: value for key, value in data.items() if key != DIGEST_KEY}
    for name, content, message in (
        ("later", later, "format 99"),
        ("bare", signed(without["contents"]), "holds no contents"),
        ("plain", signed(without[CONFIG_KEY]), "holds no config"),
        ("unsigned", unsigned, "its SHA-256 is not the stored one"),
    ):
        torch.save(content, tmp_path / f"{name}.pth")
        with pytest.raises(CheckpointError, match=message):
            Predictor(tmp_path / f"{name}.pth", device="cpu")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        Predictor(tmp_path / "absent.pth")


def test_a_picture_is_drawn(tiny_predictor, image, tmp_path):
    findings = tiny_predictor(image, RECORD)
    findings.draw(tmp_path / "a" / "one.png")
    findings.draw(tmp_path / "two.png", other=tiny_predictor(image), titles=["with", "without the record"])
    one, two = (np.asarray(Image.open(p)) for p in (tmp_path / "a" / "one.png", tmp_path / "two.png"))
    assert one.ndim == 3 and two.shape[1] > one.shape[1]


def test_a_16_bit_image_reaches_the_model_at_its_depth_and_is_shown_at_eight(tiny_predictor, tmp_path):
    deep = np.random.default_rng(0).integers(0, 65536, (80, 96)).astype(np.uint16)
    write_png(tmp_path / "deep.png", deep)
    study = tiny_predictor.prepare(tmp_path / "deep.png", RECORD)
    fraction = study.model_input["image"] - study.model_input["image"].round()
    assert fraction.abs().max() > 0.1
    assert study.pixels.dtype == np.uint8 and np.abs(study.pixels[:, :, 0] - deep / 257).max() <= 0.5
