"""Every boundary at which a file or a form comes in: sound seeds, broken and hostile inputs, and what must hold."""

from __future__ import annotations

import copy
import csv
import gzip
import io
import json
import math
import os
import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pydicom
import torch
import yaml
from detectron2.modeling import build_model
from dicom_files import lookup_table, radiograph, save
from hypothesis import strategies as st
from PIL import Image
from pydicom.uid import ImplicitVRLittleEndian, JPEG2000Lossless, JPEGBaseline8Bit, JPEGLSLossless, RLELossless
from sandbox import expect
from strategies import (
    PATHS,
    changed_bytes,
    changed_data,
    changed_rows,
    changed_text,
    dump_json,
    dump_yaml,
    nested,
    odd_values,
)
from tiny_training import SCHEMA, SMALL

from mdf_detectron.checkpoint.checkpoint import CONFIG_KEY, CONTENTS_KEY, Checkpoint, signed
from mdf_detectron.checkpoint.checkpointer import MultimodalCheckpointer
from mdf_detectron.checkpoint.contents import FORMAT, column_statistics
from mdf_detectron.config import flat_config
from mdf_detectron.config_file import get_mdf_cfg, load_config
from mdf_detectron.data.annotations import LARGEST_COORDINATE, LARGEST_SIDE, read_annotations
from mdf_detectron.data.catalog import dataset_dicts, read_prepared
from mdf_detectron.data.readers import read_dicom_tags, read_mask, read_pixels, read_size
from mdf_detectron.data.schema import ClinicalSchema
from mdf_detectron.data.sources.kit.account import ProblemList
from mdf_detectron.data.sources.kit.annotation_formats import Builder
from mdf_detectron.data.sources.kit.collection import WriteOptions
from mdf_detectron.data.sources.kit.preparation import prepare
from mdf_detectron.data.sources.own.annotations import annotation_files, read_annotation_files
from mdf_detectron.data.sources.own.collection import COLLECTION
from mdf_detectron.data.study_records import table_records
from mdf_detectron.errors import DatasetError, ImageReadError
from mdf_detectron.evaluation.coco import Detections, GroundTruth
from mdf_detectron.evaluation.froc import froc_detections
from mdf_detectron.experiments.plan import PLANS, read_plan
from mdf_detectron.fileio import CONFIGS
from mdf_detectron.inference.predictor import Predictor
from mdf_detectron.serving.page import UNKNOWN, StudyPage

Attack = Callable[[Path], Any]


class Boundary(NamedTuple):
    """One place at which something of unknown origin comes in.

    Attributes:
        inputs: strategy of (content of each file by its name, what ``check`` is given beside the folder).
        check: (folder, given): read the input as the program does and verify what was accepted, see ``Sandbox``.
        attacks: hostile inputs by hand: each writes to a folder, and may return what ``check`` is given.
        small: how many of them `make test` tries; later ones unpack to gigabytes.
    """

    inputs: st.SearchStrategy[tuple[dict[str, bytes], Any]]
    check: Callable[[Path, Any], None]
    attacks: Sequence[Attack] = ()
    small: int = 60


def file(name: str, content: st.SearchStrategy[bytes]) -> st.SearchStrategy[tuple[dict[str, bytes], Any]]:
    """Make the inputs of a boundary that reads one file."""
    return content.map(lambda data: ({name: data}, None))


def put(name: str, content: bytes | Callable[[], bytes], given: Any = None) -> Attack:
    """Make an attack: one file."""

    def write(folder: Path) -> Any:
        (folder / name).write_bytes(content() if callable(content) else content)
        return given

    return write


def no_files(name: str) -> list[Attack]:
    """List attacks: a pipe, a folder, a link to itself, a device or nothing in the place of a file."""

    def circle(folder: Path) -> None:
        (folder / name).symlink_to(name)

    def device(folder: Path) -> None:
        (folder / name).symlink_to("/dev/zero")

    return [lambda folder: os.mkfifo(folder / name), lambda folder: (folder / name).mkdir(), circle, device,
            lambda folder: None]  # fmt: skip


def text_attacks(name: str) -> list[Attack]:
    """List attacks on any reader of text: what is no file, no UTF-8, empty, nested, doubled, huge."""
    aliases = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30))
    contents = [
        b"", b" \n", b"\xff\xfe{\x00}\x00", b"\xef\xbb\xbf", b"\x00" * 1000, b"[" * 100_000, b"{" * 100_000,
        b'{"a":' * 100_000, b"- " * 100_000, b"1" * 400, b"1" * 100_000, b"NaN", b"[NaN, Infinity, -Infinity]", b"-",
        b'{"images": [], "images": []}', b"a: 1\na: 2\n", aliases.encode(), b"a: &a [*a]", b"a: &a {b: *a}", b"&a *a",
        b"? [a]\n: b", b"!!python/object/apply:os.system ['touch /tmp/executed']", b"<<: 3", b"--- a\n--- b\n", b"%TAG",
        b"2020-13-45", b"!!int ''", b"= ", b"x" * 3_000_000, b'"\\ud800"', b'{"\\ud800": 1}', b"null", b"true", b"3",
        zlib.compress(b"0" * 10**6),
    ]  # fmt: skip
    return [*no_files(name), *(put(name, content) for content in contents)]


# --- configs

SYNTHETIC = str(CONFIGS.resolve() / "synthetic_cxr" / "mdf_net.yaml")
SEED_CONFIG = {**yaml.safe_load((CONFIGS / "synthetic_cxr" / "Base-Synthetic-CXR.yaml").read_text()),
               "_BASE_": SYNTHETIC}  # fmt: skip


LEAVES = flat_config(get_mdf_cfg())


@st.composite
def changed_configs(draw: st.DrawFn) -> tuple[dict[str, bytes], list[str]]:
    """Draw a changed config file, or a sound one with odd overrides or odd values of its keys."""
    if draw(st.integers(0, 2)) == 0:
        return {"c.yaml": draw(changed_text(SEED_CONFIG, dump_yaml))}, []
    data: dict[str, Any] = {"_BASE_": SYNTHETIC}
    opts: list[str] = []
    for _ in range(draw(st.integers(1, 2))):
        key = draw(st.sampled_from(sorted(LEAVES)))
        value = draw(odd_values) if draw(st.booleans()) else draw(changed_data([LEAVES[key]]))
        opts += [key if draw(st.integers(0, 19)) else f"{key}.x", str(value)]
    if draw(st.booleans()):  # the same in the file
        for part in reversed(opts[0].split(".")):
            opts[1] = {part: opts[1]}
        data, opts = {**data, **opts[1]}, []
    return {"c.yaml": dump_yaml(data)}, opts


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, (int, float)):
        return math.isfinite(value) and abs(value) <= max(2**63, 1e308)
    return value is None or isinstance(value, str)


def check_config(folder: Path, opts: list[str] | None) -> None:
    cfg = load_config(folder / "c.yaml", opts)
    for key, value in flat_config(cfg).items():
        expect(_is_plain(value), f"{key} is {value!r}")
        expect(value is not None or LEAVES.get(key) is None, f"{key} is null")
    (folder / "again.yaml").write_text(cfg.dump())
    other = flat_config(load_config(folder / "again.yaml"))
    different = [key for key, value in flat_config(cfg).items() if other[key] != value]
    expect(not different, f"the dumped config has other values of {different}")


CONFIG = Boundary(changed_configs(), check_config, [
    *text_attacks("c.yaml"),
    *(put("c.yaml", text.encode()) for text in (
        "_BASE_: c.yaml", "_BASE_: http://127.0.0.1:9/c.yaml", "_BASE_: /dev/zero", "_BASE_: [c.yaml, c.yaml]",
        "_BASE_: {a: 1}", "_BASE_: ''", "_BASE_: ~nobody", "_BASE_: s3://bucket/c.yaml", "_BASE_: detectron2://c.yaml",
        "MODEL: 3", "MODEL: {1: 2}", "SOLVER: {MAX_ITER: }")),
    *(put("c.yaml", f"_BASE_: {SYNTHETIC}".encode(), opts) for opts in (
        ["MODEL.DEVICE.x", "1"], ["MODEL", "1"], ["", ""], ["VERSION", "1"], ["SOLVER.MAX_ITER"], ["_BASE_", "x"],
        ["SOLVER.MAX_ITER", "["], ["SOLVER.MAX_ITER", "(" * 5000], ["SOLVER.STEPS", "-" * 50_000 + "1"],
        ["SOLVER.BASE_LR", "1e999"], ["SOLVER.MAX_ITER", "9" * 400], ["OUTPUT_DIR", "a\0b"],
        ["SOLVER.MAX_ITER", "None"], ["MODEL.PIXEL_MEAN", "[...]"], ["MODEL.WEIGHTS", "x" * 10**6])),
])  # fmt: skip

# --- schemas, annotations, predictions, plans

SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]
COCO = {
    "info": {"description": "seed"},
    "images": [
        {"id": i, "file_name": f"{i}.png", "width": 64, "height": 48, "patient_id": f"p{i}",
         "clinical": {"age": 40 + i, "temperature": None, "gender": "FM"[i % 2]}, "sha256": f"{i:064x}"}
        for i in (1, 2, 3)
    ],
    "annotations": [
        {"id": n, "image_id": i, "category_id": c, "bbox": [10, 10, 20, 20], "segmentation": mask, "iscrowd": 0,
         "area": 400.0}
        for n, (i, c, mask) in enumerate([(1, 1, [SQUARE]), (1, 2, {"size": [48, 64], "counts": [100, 20, 2952]}),
                                          (3, 1, [SQUARE, SQUARE])], start=1)
    ],
    "categories": [{"id": 1, "name": "effusion"}, {"id": 2, "name": "mass"}],
}  # fmt: skip
PREDICTIONS = [
    {"image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20], "score": 0.9, "segmentation": [SQUARE]},
    {"image_id": 1, "category_id": 2, "bbox": [1.5, 2, 20, 20], "score": 0.5, "segmentation": [SQUARE]},
    {"image_id": 3, "category_id": 1, "bbox": [0, 0, 64, 48], "score": 0.01, "segmentation": [SQUARE]},
]


def check_schema(folder: Path, given: None) -> None:
    schema = ClinicalSchema.load(folder / "s.yaml")
    for column in schema.columns:
        expect(isinstance(column.name, str) and column.name.strip() != "", f"name {column.name!r}")
        if column.kind == "numeric":
            expect(column.minimum <= column.maximum, "limits")
        else:
            expect(len(set(column.vocabulary)) == len(column.vocabulary) > 0, "vocabulary")
    schema.parse_record({}, "record")
    schema.save(folder / "again.yaml")
    expect(ClinicalSchema.load(folder / "again.yaml") == schema, "the saved schema reads as another one")


def check_annotations(folder: Path, given: None) -> None:
    SCHEMA.save(folder / "schema.yaml")
    images = folder / "images"
    records = dataset_dicts(read_prepared(folder / "a.json", folder / "schema.yaml"), images)
    for record in records:
        inside = os.path.realpath(record["file_name"]).startswith(os.path.realpath(images) + os.sep)
        expect(inside, f"file_name {record['file_name']} leads out of images/")
        expect(0 < record["width"] <= LARGEST_SIDE and 0 < record["height"] <= LARGEST_SIDE, "size")
        expect(isinstance(record["patient_id"], str) and record["patient_id"] != "", "patient")
        expect(record["sha256"] is None or re.fullmatch("[0-9a-f]{64}", record["sha256"]) is not None, "digest")
        for annotation in record["annotations"]:
            box = annotation["bbox"]
            expect(all(math.isfinite(v) and abs(v) <= LARGEST_COORDINATE for v in box), f"bbox {box}")
            expect(box[2] > 0 and box[3] > 0 and annotation["category_id"] >= 0, f"bbox {box}, or its category")
    expect(len({record["image_id"] for record in records}) == len(records), "image ids")
    expect(GroundTruth.load(folder / "a.json").num_images == len(records), "scoring reads another number of images")


def _with(part: str, **changes: Any) -> Attack:
    return put("a.json", dump_json({**COCO, "annotations": [], part: [{**COCO[part][0], **changes}]}))


def check_predictions(folder: Path, given: None) -> None:
    truth = GroundTruth.load(COCO)
    found = Detections.load(folder / "p.json", truth)
    expect(bool((abs(found.boxes) <= LARGEST_COORDINATE).all() and (found.boxes[:, 2:] >= 0).all()), "boxes")
    expect(all(map(math.isfinite, found.scores.tolist())), "scores")
    for criterion in ("iou", "iobb"):
        froc_detections(truth, found, criterion=criterion)


def check_plan(folder: Path, given: None) -> None:
    plan = read_plan(folder / "p.yaml")
    names = [variant.name for variant in plan.variants]
    expect(len(set(names)) == len(names) > 0, f"variants {names}")
    expect(all(type(seed) is int and abs(seed) < 2**63 for seed in plan.seeds), f"seeds {plan.seeds}")


SEED_PLAN = yaml.safe_load((PLANS / "does_it_help.yaml").read_text())
SCHEMAS = Boundary(file("s.yaml", changed_text(SCHEMA.to_dict(), dump_yaml)), check_schema, text_attacks("s.yaml"))
PREDICTION = Boundary(file("p.json", changed_text(PREDICTIONS, dump_json)), check_predictions, text_attacks("p.json"))
PLAN = Boundary(file("p.yaml", changed_text(SEED_PLAN, dump_yaml)), check_plan, text_attacks("p.yaml"))
ANNOTATIONS = Boundary(file("a.json", changed_text(COCO, dump_json)), check_annotations, [
    *text_attacks("a.json"), *(_with("images", file_name=name) for name in [*PATHS, "\\\\host\\x", "x" * 10**5]),
    *(_with("annotations", segmentation=mask) for mask in (
        [[1e308] * 6], [[-1e308, 0, 1e308, 0, 0, 1e308]], [[10**400] * 6], [[0, 0, 1, 1, math.nan, 2]],
        {"size": [10**9, 10**9], "counts": "0"}, {"size": [48, 64], "counts": [10**30, 1]},
        {"size": [48, 64], "counts": "~" * 1000}, {"size": [-48, 64], "counts": [0]},
        {"size": [48, 64], "counts": "\ud800"}, [[10, 10, 30, 10, 30, 30] * 20_000])),
], small=80)  # fmt: skip

# --- images


def _pixels(shape: tuple[int, ...] = (24, 32), top: int = 255, dtype: Any = np.uint8) -> np.ndarray:
    return (np.random.default_rng(0).random(shape) * top).astype(dtype)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Encode an image."""
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def raster_files() -> list[bytes]:
    """List sound raster files of every kind."""
    gray, color = Image.fromarray(_pixels()), Image.fromarray(_pixels((24, 32, 3)))
    deep, real = (Image.fromarray(_pixels(top=top, dtype=kind)) for top, kind in ((65535, "u2"), (1000, "f4")))
    exif = Image.Exif()
    exif[274] = 6
    kinds = [(gray, kind) for kind in ("PNG", "JPEG", "TIFF", "BMP", "GIF", "JPEG2000", "PPM")]
    kinds += [(deep, "PNG"), (deep, "TIFF"), (real, "TIFF"), (color, "PNG"), (color, "WEBP"),
              (gray.convert("P"), "PNG"), (color.convert("RGBA"), "PNG"), (color.convert("CMYK"), "JPEG")]  # fmt: skip
    more = [encoded(color, "TIFF", compression="tiff_lzw"), encoded(gray, "TIFF", compression="tiff_deflate")]
    return [*(encoded(*one) for one in kinds), *more, encoded(color, "JPEG", exif=exif)]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_bomb(width: int, height: int, depth: int = 8, color: int = 0, content: bytes = b"") -> bytes:
    """Write a PNG whose header says its size, whatever its content is."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", content) + _chunk(b"IEND", b"")


def _with_chunk(kind: bytes, unpacked: int, count: int = 1) -> bytes:
    """Write a sound PNG with compressed text or a color profile that unpacks to this many bytes."""
    sound = encoded(Image.fromarray(_pixels()), "PNG")
    return sound[:33] + _chunk(kind, b"k\0\0" + zlib.compress(bytes(unpacked))) * count + sound[33:]


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(touch executed) (w) file\n"
RASTER_ATTACKS = [
    b"", b"\x89PNG\r\n\x1a\n", b"no image", png_bomb(2**31 - 1, 2**31 - 1), png_bomb(100_000, 100_000, 16, 6),
    png_bomb(8000, 8000, 16, 6), png_bomb(0, 0), png_bomb(2**31 - 1, 1), POSTSCRIPT, b"P6 999999999 999999999 255\n",
    b"GIF89a\xff\xff\xff\xff\xf0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x02\x02L\x01\0;",
    b"<svg xmlns='http://www.w3.org/2000/svg'></svg>",
    b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 256, 4, 1, 2**32 - 1) + b"\x08\0\0\0",
    b"BM" + struct.pack("<IHHIIiiHHIIiiII", 100, 0, 0, 54, 40, 2**31 - 1, 2**31 - 1, 1, 24, 0, 0, 0, 0, 0, 0),
    lambda: png_bomb(20_000, 10_000, content=zlib.compress(bytes(20_001 * 10_000))),
    lambda: _with_chunk(b"zTXt", 64 << 20, 4), lambda: _with_chunk(b"iCCP", 256 << 20),
]  # fmt: skip


def check_image(folder: Path, name: str | None) -> None:
    path = folder / (name or "image.png")
    pixels, done = read_pixels(path, 8)
    width, height = read_size(path)
    expect(pixels.dtype == np.uint8 and pixels.shape[:2] == (height, width), f"{pixels.shape} of {width} × {height}")
    expect(pixels.ndim == 2 or pixels.shape[2] == 3, f"shape {pixels.shape}")
    expect((done.width, done.height) == (width, height), "provenance")
    expect(bool(np.isfinite([done.low, done.high]).all()), "range")
    deep, _ = read_pixels(path, 16)
    expect(deep.dtype == np.uint16 and deep.shape == pixels.shape, "16 bits")


RASTER = raster_files()
IMAGE = Boundary(file("image.png", st.sampled_from(RASTER).flatmap(changed_bytes)), check_image,
                 [*no_files("image.png"), *(put("image.png", one) for one in RASTER_ATTACKS)], small=19)  # fmt: skip


def npy(array: np.ndarray) -> bytes:
    """Encode an array as NPY."""
    np.save(buffer := io.BytesIO(), array, allow_pickle=True)
    return buffer.getvalue()


def check_mask(folder: Path, given: None) -> None:
    samples = read_mask(next(folder.glob("mask.*"), folder / "mask.npy"))
    expect(samples.ndim == 2 and samples.size > 0 and samples.dtype.kind in "biuf", f"{samples.shape} {samples.dtype}")


ARRAYS = [npy(_pixels(top=2) > 0), npy(_pixels((24, 32, 1))), npy(_pixels(dtype=np.float32))]
MASK = Boundary(
    st.one_of(file("mask.npy", st.sampled_from(ARRAYS).flatmap(changed_bytes)),
              file("mask.png", st.sampled_from(RASTER).flatmap(changed_bytes))),
    check_mask,
    [*no_files("mask.npy"), *(put("mask.npy", content) for content in (
        b"", npy(np.array([{}])), npy(np.zeros((2, 2), "c8")), npy(np.zeros(3)), npy(np.zeros((0, 4))),
        b"\x93NUMPY\x01\0\xff\xff" + b"{" * 65535, b"PK\x03\x04" * 9,
        ARRAYS[0].replace(b"(24, 32)", b"(9**9,9)"), ARRAYS[0].replace(b"(24, 32)", b"(999999,"))),
     *(put("mask.png", one) for one in RASTER_ATTACKS)], small=30)  # fmt: skip


def dicom(pixels: np.ndarray, bits: int, syntax: str | None = None, **tags: Any) -> bytes:
    """Write a CR image as the content of a DICOM file."""
    about = {"Modality": "CR", "PatientID": "P1", "PatientAge": "062Y", "PatientSex": "F"}
    data, buffer = radiograph(pixels, bits, **{**about, **tags}), io.BytesIO()
    if syntax == ImplicitVRLittleEndian:
        data.file_meta.TransferSyntaxUID, syntax = syntax, None
    save(data, buffer, syntax)
    return buffer.getvalue()


def dicom_files() -> list[bytes]:
    """List sound DICOM files of several transfer syntaxes, with windows, tables and padding."""
    twelve, eight = _pixels(top=4095, dtype=np.uint16), _pixels()
    table = lookup_table(list(range(256)), 0, 8)
    return [
        dicom(twelve, 12), dicom(twelve, 12, WindowCenter=2000, WindowWidth=3000),
        dicom(eight, 8, VOILUTSequence=table), dicom(eight, 8, ModalityLUTSequence=table),
        dicom(twelve, 12, PixelPaddingValue=0, PixelPaddingRangeLimit=10, PhotometricInterpretation="MONOCHROME1"),
        dicom(twelve, 12, RescaleSlope="2.5", RescaleIntercept="-1024"), dicom(_pixels((24, 32, 3)), 8),
        dicom(twelve, 12, ImplicitVRLittleEndian), dicom(eight, 8, JPEGBaseline8Bit), dicom(twelve, 12, RLELossless),
        dicom(twelve, 12, JPEGLSLossless), dicom(_pixels((64, 64), 4095, np.uint16), 12, JPEG2000Lossless),
    ]  # fmt: skip


TAGS = ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "SamplesPerPixel", "PixelRepresentation",
        "PhotometricInterpretation", "WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept",
        "NumberOfFrames", "PixelPaddingValue", "PixelPaddingRangeLimit", "PlanarConfiguration", "PatientAge",
        "PatientOrientation", "PixelSpacing", "LossyImageCompression", "VOILUTFunction",
        "PixelAspectRatio", "PresentationLUTShape")  # fmt: skip
TAG_VALUES = (0, 1, 2, 7, 16, 64, 65535, "", "x", "1e400", "nan", "-1", "0", [1, 2], ["1", "x"], "PALETTE COLOR",
              "MONOCHROME1", "YBR_FULL", "INVERSE", "0,5", "1,", "SIGMOID", "inf", "1" * 60, None)  # fmt: skip


def with_tag(content: bytes, keyword: str, value: Any) -> bytes:
    """Write a DICOM file again with a tag that says something else; as it is where pydicom cannot write it."""
    settings = pydicom.config.settings
    before = settings.writing_validation_mode, settings.reading_validation_mode
    settings.writing_validation_mode = settings.reading_validation_mode = pydicom.config.IGNORE
    buffer = io.BytesIO()
    try:
        data = pydicom.dcmread(io.BytesIO(content))
        setattr(data, keyword, value)
        data.save_as(buffer)
        return buffer.getvalue()
    except Exception:
        return content
    finally:
        settings.writing_validation_mode, settings.reading_validation_mode = before


def check_dicom(folder: Path, name: str | None) -> None:
    tags = read_dicom_tags(folder / "image.dcm", ["PatientID", "PatientAge", "Modality"])
    expect(all(value is None or isinstance(value, str) for value in tags.values()), f"tags {tags}")
    check_image(folder, "image.dcm")


def _deflate_bomb() -> bytes:
    deflated = dicom(_pixels(), 8).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99\0")
    compressor = zlib.compressobj(1, zlib.DEFLATED, -15)
    packed = b"".join(compressor.compress(bytes(1 << 24)) for _ in range(192)) + compressor.flush()
    return deflated[: deflated.index(b"1.2.840.10008.1.2.1.99") + 24] + packed


SEQUENCE = b"\x08\0\x05\0SQ\0\0\xff\xff\xff\xff"  # of unknown length
DICOMS, HEAD = dicom_files(), b"\0" * 128 + b"DICM"
DICOM = Boundary(
    file("image.dcm", st.sampled_from(DICOMS).flatmap(lambda content: st.one_of(
        st.builds(with_tag, st.just(content), st.sampled_from(TAGS), st.sampled_from(TAG_VALUES)),
        changed_bytes(content)))),
    check_dicom,
    [*no_files("image.dcm"), *(put("image.dcm", content) for content in (
        lambda: dicom(_pixels(), 8, Rows=65535, Columns=65535), lambda: dicom(_pixels(), 8, Rows=0),
        lambda: dicom(_pixels(), 8, NumberOfFrames=2**31 - 1), HEAD, HEAD + b"\xff" * 200, b"", b"\0" * 10**6,
        lambda: dicom(_pixels(), 8, RescaleSlope="1e308", RescaleIntercept="1e308"),
        HEAD + SEQUENCE + (b"\xfe\xff\0\xe0\xff\xff\xff\xff" + SEQUENCE) * 3000, _deflate_bomb))],
    small=14,
)  # fmt: skip

# --- own data, and the records of new studies

COUNT = 6
HEADER = ["File", "MRN", "Age", "Sex", "Lactate", "Taken", "Drawn"]
ROWS = [[f"scan_{i}", f"{100 + i}", str(40 + i), "FM"[i % 2], f"{1 + i / 10:.1f}", "2020-01-02 10:00",
         "2020-01-02 09:00"] for i in range(COUNT)]  # fmt: skip
EXPORT = {
    "images": [{"id": i, "file_name": f"scan_{i}.png", "width": 16, "height": 12} for i in range(COUNT)],
    "annotations": [{"id": i, "image_id": i, "category_id": i % 2, "bbox": [2, 2, 6, 5], "area": 30, "iscrowd": 0}
                    for i in range(COUNT)],
    "categories": [{"id": 0, "name": "opacity"}, {"id": 1, "name": "nodule"}],
}  # fmt: skip
BOXES = [["image", "xmin", "ymin", "xmax", "ymax", "class"],
         *([f"scan_{i}.png", 2, 2, 8, 7, "opacity"] for i in range(COUNT))]  # fmt: skip
COLUMNS = {"version": 1, "columns": [{"name": "age", "kind": "numeric"}, {"name": "lactate", "kind": "numeric"}]}
OPTIONS = {"key": "File", "patient": "MRN", "time": "Taken", "record_time": "Drawn",
           "columns": ["Age:age Sex:sex Lactate:lactate"]}  # fmt: skip
SCANS = {f"scans/scan_{i}.png": encoded(Image.fromarray(np.full((12, 16), 40 * i, np.uint8)), "PNG")
         for i in range(COUNT)}  # fmt: skip


def table_content(suffix: str, rows: list[list[Any]]) -> bytes:
    """Return the content of a table of any kind."""
    if suffix in (".csv", ".tsv", ".csv.gz"):
        text = io.StringIO()
        csv.writer(text, delimiter="\t" if suffix == ".tsv" else ",", lineterminator="\n").writerows(rows)
        content = text.getvalue().encode("utf-8", "replace")
        return gzip.compress(content, mtime=0) if suffix == ".csv.gz" else content
    frame, buffer = pd.DataFrame(rows[1:], columns=rows[0]), io.BytesIO()
    frame.to_excel(buffer, index=False) if suffix == ".xlsx" else frame.astype(str).to_parquet(buffer, index=False)
    return undated(buffer.getvalue()) if suffix == ".xlsx" else buffer.getvalue()


def undated(workbook: bytes) -> bytes:
    """Write a workbook again without the times in it: hypothesis needs the same bytes for the same rows."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(workbook)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "docProps/core.xml":
                content = re.sub(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", b"2020-01-01T00:00:00Z", content)
            new.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def table_file(folder: Path, suffix: str, rows: list[list[Any]]) -> Path:
    """Write a table of any kind."""
    (folder / f"table{suffix}").write_bytes(table_content(suffix, rows))
    return folder / f"table{suffix}"


SOUND = {"boxes.json": dump_json(EXPORT), "table.csv": table_content(".csv", [HEADER, *ROWS]), **SCANS}


@st.composite
def changed_own_data(draw: st.DrawFn) -> tuple[dict[str, bytes], str]:
    """Draw own data of which one part is broken."""
    files, on_error = dict(SOUND), draw(st.sampled_from(("stop", "skip")))
    what = draw(st.sampled_from(("table", "table", "table", "boxes", "export", "schema", "images")))
    if what == "table":
        del files["table.csv"]
        suffix = draw(st.sampled_from((".csv", ".csv", ".tsv", ".csv.gz", ".xlsx", ".parquet")))
        rows = draw(changed_rows([HEADER, *ROWS]))
        try:
            content = table_content(suffix, rows)
        except Exception:  # openpyxl and pyarrow write few odd values
            content = table_content(suffix, [HEADER, *ROWS])
        files[f"table{suffix}"] = draw(st.one_of(st.just(content), changed_bytes(content)))
    elif what == "boxes":
        del files["boxes.json"]
        files["boxes.csv"] = draw(changed_rows(BOXES).map(lambda rows: table_content(".csv", rows)))
    elif what == "export":
        files["boxes.json"] = draw(changed_data(EXPORT).map(dump_json))
    elif what == "schema":
        files["s.yaml"] = draw(changed_data(COLUMNS).map(dump_yaml))
    else:
        broken = draw(st.lists(st.sampled_from(sorted(SCANS)), min_size=1, unique=True))
        files |= {name: draw(changed_bytes(SCANS[name])) for name in broken}
    return files, on_error


def check_own_data(folder: Path, on_error: str | None) -> None:
    (boxes,), (table,) = folder.glob("boxes.*"), [p for p in folder.iterdir() if p.name.startswith("table")] or [None]
    schema = folder / "s.yaml" if (folder / "s.yaml").exists() else None
    prepare(COLLECTION, folder / "out", WriteOptions(fractions=(0.34, 0.33, 0.33)), annotations=[boxes],
            images=folder / "scans", table=table or folder / "table.csv", schema=schema, on_error=on_error or "stop",
            num_workers=0, **OPTIONS)  # fmt: skip
    schema = ClinicalSchema.load(folder / "out" / "clinical_schema.yaml")
    files, patients = [], []
    for split in ("train", "val", "test"):
        found = read_annotations(folder / "out" / "annotations" / f"{split}.json", prepared=True, schema=schema)
        files += [image["file_name"] for image in found.images]
        patients.append({image["patient_id"] for image in found.images})
    expect(0 < len(files) == len(set(files)), "files")
    expect(not (patients[0] & patients[1] | patients[0] & patients[2] | patients[1] & patients[2]), "patients shared")
    report = json.loads((folder / "out" / "report.json").read_text())
    expect(all(s["in"] == s["kept"] + sum(s["dropped"].values()) for s in report["flow"]), "flow")


def _gzip_bomb(row: bytes) -> Callable[[], bytes]:
    """Write a table of 3 GB in many members, each the same."""
    head = gzip.compress((",".join(HEADER) + "\n").encode())
    return lambda: head + gzip.compress(row * ((1 << 22) // len(row)), compresslevel=1) * 768


def _own(attack: Attack) -> Attack:
    def write(folder: Path) -> None:
        (folder / "scans").mkdir()
        for name, content in SOUND.items():
            if name != "table.csv":
                (folder / name).write_bytes(content)
        attack(folder)

    return write


OWN = Boundary(changed_own_data(), check_own_data, [_own(attack) for attack in (
    *text_attacks("table.csv"), *no_files("table.xlsx"),
    *(put(f"table{s}", b"PK\x03\x04" + b"\0" * 100) for s in (".xlsx", ".parquet", ".csv.gz", ".xls", ".docx", "")),
    put("table.xlsx", b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b 'x'>]><a>&b;</a>"),
    *(put("table.csv.gz", _gzip_bomb(row)) for row in (b"x", b",", b"\n", b"scan_1,100,40,F,1.0,,\n", b'"')),
)], small=52)  # fmt: skip


# --- what labeling tools write

_REGION = {"original_width": 16, "original_height": 12, "id": "r", "value": {
    "x": 10, "y": 20, "width": 30, "height": 40, "rotation": 5, "rectanglelabels": ["mass"]}}  # fmt: skip
_DRAWN = [{"name": "rect", "x": 2, "y": 2, "width": 6, "height": 5}, {"name": "circle", "cx": 6, "cy": 6, "r": 3},
          {"name": "polygon", "all_points_x": [1, 9, 9], "all_points_y": [1, 1, 8]}]  # fmt: skip
_LABELED = [
    [{"id": 1, "data": {"image": "/data/upload/1/a.png"}, "annotations": [{"result": [_REGION]}]}],
    {"imagePath": "a.png", "imageWidth": 16, "imageHeight": 12, "shapes": [
        {"label": "mass", "shape_type": kind, "points": [[2, 2], [8, 2], [8, 7]][:n]}
        for kind, n in (("rectangle", 2), ("circle", 2), ("polygon", 3))]},
    {"a.png1": {"filename": "a.png", "size": 1, "regions": [
        {"shape_attributes": one, "region_attributes": {"class": "mass"}} for one in _DRAWN]}},
]  # fmt: skip
_LABELED_XML = [
    b"<annotation><filename>a.png</filename><size><width>16</width><height>12</height></size><object><name>mass</name>"
    b"<bndbox><xmin>2</xmin><ymin>2</ymin><xmax>8</xmax><ymax>7</ymax></bndbox></object></annotation>",
    b'<annotations><image id="0" name="a.png" width="16" height="12"><box label="mass" xtl="2" ytl="2" xbr="8" ybr="7" '
    b'rotation="9"/><ellipse label="mass" cx="6" cy="6" rx="3" ry="2"/><polygon label="mass" points="1,1;9,1;9,8"/>'
    b"</image></annotations>",
]
_CLASSES = b"nc: 2\nnames:\n  0: mass\n  1: cyst\n"
_LAUGHS = b"".join(b"<!ENTITY l%d '%s'>" % (i, b"&l%d;" % (i - 1) * 10) for i in range(1, 12))


@st.composite
def changed_labels(draw: st.DrawFn) -> tuple[dict[str, bytes], str]:
    """Draw labels of a format of which one part is broken."""
    suffix = draw(st.sampled_from((".json", ".json", ".xml", ".txt", ".yaml")))
    if suffix == ".json":
        return {"a.json": draw(st.sampled_from(_LABELED).flatmap(lambda data: changed_text(data, dump_json)))}, "a.json"
    if suffix == ".xml":
        return {"a.xml": draw(st.sampled_from(_LABELED_XML).flatmap(changed_bytes))}, "a.xml"
    files = {"a.txt": b"0 .5 .5 .2 .2\n1 .1 .1 .5 .1 .5 .6\n", "data.yaml": _CLASSES}
    changed = "a.txt" if suffix == ".txt" else "data.yaml"
    return files | {changed: draw(changed_bytes(files[changed]))}, "a.txt"


def check_labels(folder: Path, name: str) -> None:
    problems = ProblemList(skip=True)
    found = read_annotation_files(annotation_files([folder / name]), Builder(problems))
    boxes = [box for image in found.images for box in image.boxes]
    expect(found.boxes_in == len(boxes) + sum(found.dropped.values()), "boxes in = kept + dropped")
    expect(all(isinstance(box["class"], str) and box["class"].strip() for box in boxes), "classes")
    expect(
        all(len(box["bbox"]) == 4 and np.isfinite(box["bbox"]).all() and min(box["bbox"][2:]) > 0 for box in boxes),
        "bbox",
    )
    if not boxes:
        raise DatasetError("; ".join(text for texts in problems.listed.values() for text in texts)[:200] or "none")


def _named(attack: Attack, name: str) -> Attack:
    def write(folder: Path) -> str:
        attack(folder)
        return name

    return write


LABELS = Boundary(changed_labels(), check_labels, [
    *(_named(attack, name) for name in ("a.json", "a.xml") for attack in text_attacks(name)),
    *(put("a.xml", content, "a.xml") for content in (
        b"<!DOCTYPE a [<!ENTITY l0 'ha'>" + _LAUGHS + b"]><annotation><filename>&l11;</filename></annotation>",
        "<!DOCTYPE a [<!ENTITY l0 'ha'>]><annotation>&l0;</annotation>".encode("utf-16"),
        b"<!DOCTYPE a SYSTEM 'file:///etc/passwd'><annotation/>", b"<a>" * 300_000, b"<a b='c'/>" * 300_000,
        b"<annotation>" + b"<object/>" * 300_000 + b"</annotation>", b"<annotations>" + b"<a/>" * 1_000_000)),
])  # fmt: skip


def check_records(folder: Path, given: None) -> None:
    """Compare with rows that are found and read another way; of values only those that are plain."""
    found, _ = table_records(folder / "table.csv", [folder / f"{i}.png" for i in range(4)], folder, SCHEMA, key="file")
    try:
        header, *rows = csv.reader(io.StringIO((folder / "table.csv").read_text(encoding="utf-8-sig"), newline=""))
    except (UnicodeDecodeError, csv.Error):
        return
    if sorted(header) != sorted(RECORD_ROWS[0]):  # marks, or names with blanks
        return
    rows = [dict(zip(header, row, strict=False)) for row in rows if len(row) >= len(header)]
    for number, one in enumerate(found):
        named = [row for row in rows if re.fullmatch(rf"(.*[/\\\\])?{number}(\.\w+|\.0+)?", row["file"].strip())]
        expect(one.error or one.values is not None or all(row["file"] != f"{number}.png" for row in named), str(named))
        expect(one.error or one.values is None or any(_is_read(row, one.values) for row in named), f"{one}, {named}")


def _is_read(row: dict[str, str], values: dict[str, Any]) -> bool:
    """Tell whether a record has the values of a row, as far as they are plain numbers or words."""
    for name, value in values.items():
        is_number = name != "gender" and re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", row[name])
        is_word = row[name] == "" or (name == "gender" and row[name] in "FM")
        if (is_number and value != float(row[name])) or (is_word and value != (row[name] or None)):
            return False
    return True


RECORD_ROWS = [["file", *SCHEMA.names], *([f"{i}.png", 40 + i, "", "F"] for i in range(4))]
CHANGED_RECORDS = changed_rows(RECORD_ROWS).map(lambda rows: table_content(".csv", rows))
RECORDS = Boundary(file("table.csv", st.one_of(CHANGED_RECORDS, CHANGED_RECORDS.flatmap(changed_bytes))), check_records,
                   text_attacks("table.csv"))  # fmt: skip

# --- checkpoints, and the page that serves a model

UNTRAINED = [*SMALL, "MODEL.CLINICAL.CATEGORICAL", ["gender"], "MODEL.CLINICAL.VOCABULARIES", [["F", "M"]],
             "MODEL.CLINICAL.BRANCH", "compact", "MODEL.ROI_BOX_HEAD.FC_DIM", 16, "MODEL.ROI_MASK_HEAD.CONV_DIM", 8,
             "MODEL.ROI_MASK_HEAD.NUM_CONV", 1]  # fmt: skip


class Evil:
    """What a pickle makes a process run."""

    def __init__(self, call: Callable[..., Any] = os.system, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments or ("true",)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call, self.arguments


def small_checkpoint(folder: Path) -> Path:
    """Write a checkpoint of an untrained small model with contents, as a training would."""
    torch.manual_seed(0)
    cfg = load_config(SYNTHETIC, UNTRAINED)
    model = build_model(cfg)
    records = [{"age": 40.0 + i, "temperature": 98.0, "gender": "FM"[i % 2]} for i in range(6)]
    rows = torch.tensor([[r["age"], r["temperature"]] for r in records])
    model.backbone.clinical_encoder.fit(rows, torch.arange(6)[:, None] % 2)
    columns = column_statistics(SCHEMA, records)
    contents = {
        "format": FORMAT, "software": {"torch": str(torch.__version__)}, "class_names": ["effusion", "mass"],
        "category_ids": [1, 2], "schema": SCHEMA.to_dict(), "columns": ["age", "temperature", "gender"],
        "training": {"datasets": ["x_train"], "synthetic": False, "images": 6, "patients": 6, "columns": columns},
        "image": {"format": "L", "size": 64, "resize": "square", "mean": [0.0], "std": [1.0],
                  "black_and_white_percentiles": [0.5, 99.5]},
        "missing_records": {"missing": "indicator", "dropout_record": 0.0, "dropout_value": 0.0},
        "operating_point": None, "calibration": None, "results": None,
    }  # fmt: skip
    MultimodalCheckpointer(model, str(folder), cfg=cfg, contents=contents).save("model")
    return folder / "model.pth"


def saved(data: Any) -> bytes:
    """Serialize as a checkpoint."""
    buffer = io.BytesIO()
    torch.save(data, buffer)
    return buffer.getvalue()


def _signed(data: Any) -> bytes:
    """Serialize with a digest of just this content, where one can be computed."""
    try:
        data = signed(data)
    except Exception:  # of what no digest can be computed of
        pass
    return saved(data)


def _odd_tensors(like: torch.Tensor) -> list[Any]:
    flat = like.reshape(-1)
    return [torch.zeros(1).expand(10**12), torch.zeros(2, 3).to_sparse(), torch.zeros(3, dtype=torch.complex64),
            like.double(), like.half() if like.is_floating_point() else like, flat[:0], like[None], float("nan") * like,
            torch.empty(3, device="meta"), torch.nn.Parameter(like.float()), [like], {"a": like}, like.shape,
            torch.quantize_per_tensor(torch.zeros(3), 1.0, 0, torch.qint8), torch.zeros(()), like.bool()]  # fmt: skip


def _bomb(name: str, size: int) -> Callable[[], bytes]:
    def make() -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            with archive.open(f"m/{name}", "w", force_zip64=True) as file:
                for _ in range(size >> 24):
                    file.write(bytes(1 << 24))
            archive.writestr("m/version", "3\n")
            archive.writestr("m/byteorder", "little")
            if name != "data.pkl":
                archive.writestr("m/data.pkl", pickle.dumps({}))
        return buffer.getvalue()

    return make


def checkpoint_boundary(folder: Path) -> Boundary:
    """Make the boundary of checkpoints; a sound one is written to the folder."""
    sound = small_checkpoint(folder).read_bytes()
    data = Checkpoint.open(folder / "model.pth").data

    @st.composite
    def edited(draw: st.DrawFn) -> bytes:
        what, changed = draw(st.sampled_from((CONTENTS_KEY, CONTENTS_KEY, CONFIG_KEY, "model"))), dict(data)
        if what == CONTENTS_KEY:
            changed[what] = draw(changed_data(data[what]))
        elif what == CONFIG_KEY:
            changed[what] = draw(changed_bytes(data[what].encode())).decode(errors="replace")
        else:
            name = draw(st.sampled_from(sorted(data[what])))
            values = _odd_tensors(data[what][name])
            value = values[draw(st.integers(0, len(values) - 1))] if draw(st.booleans()) else draw(odd_values)
            changed[what] = {**data[what], name: value}
        return _signed(changed)

    def check(folder: Path, how: str | None) -> None:
        predictor = Predictor(folder / "m.pth", device="cpu")
        if how == "flipped":
            loaded = Checkpoint.open(folder / "m.pth").data
            expect(all(loaded[key] == data[key] for key in (CONTENTS_KEY, CONFIG_KEY)), "contents")
            same = all(torch.equal(loaded["model"][name], value) for name, value in data["model"].items())
            expect(same and loaded["model"].keys() == data["model"].keys(), "other weights were loaded")
        found = predictor(np.zeros((64, 64), np.uint8), None)
        expect(all(0 <= finding.score <= 1 for finding in found.findings), "scores")

    def flipped(place: int) -> bytes:
        content = bytearray(sound)
        content[place // 8] ^= 1 << place % 8
        return bytes(content)

    def edit(**changes: Any) -> bytes:
        return _signed({**data, **copy.deepcopy(changes)})

    flips = st.one_of(st.integers(0, 8 * len(sound) - 1).map(flipped), changed_bytes(sound))
    attacks: list[bytes | Callable[[], bytes]] = [
        edit(model={}), edit(model=[]), edit(model={1: torch.zeros(1)}), edit(mdf_config=3), edit(contents={}),
        edit(mdf_config="a: &a [*a]"), edit(mdf_config="MODEL: {WEIGHTS: x}"), edit(contents=[]), edit(sha256=3),
        edit(contents={"format": FORMAT}), edit(mdf_config="MODEL: {FPN: {OUT_CHANNELS: 1000000000}}"),
        pickle.dumps(Evil()), pickle.dumps(Evil(exec, "open('/outside/x', 'w')")), saved({"model": Evil()}),
        saved({"model": {}, CONTENTS_KEY: Evil(eval, "1")}), pickle.dumps({"model": Evil(os.popen, "true")}), b"",
        b"PK\x03\x04", b"PK\x05\x06" + b"\0" * 18, b"x" * 1000, saved([1]), saved({}), saved({"model": 3}),
        saved(nested(200)), saved({"model": {}}), saved({"model": {"x": torch.zeros(1).expand(10**12)}}),
        _bomb("data.pkl", 1 << 30), _bomb("data/0", 3 << 30),
    ]  # fmt: skip
    inputs = st.one_of(flips.map(lambda content: ({"m.pth": content}, "flipped")), file("m.pth", edited()))
    return Boundary(inputs, check, [*no_files("m.pth"), *(put("m.pth", attack) for attack in attacks)], small=31)


NAMES = ("image", "<script>alert(1)<br>", "a b", "ä\u202eö", "x" * 200, "..x", "'\"&amp;", "%00", "-rf")


def page_boundary(folder: Path) -> Boundary:
    """Make the boundary of the page's upload and form; the page's model is written to the folder."""
    page = StudyPage(Predictor(small_checkpoint(folder), device="cpu"))
    suffixes = st.sampled_from((".png", ".jpg", ".tif", ".dcm", ""))
    contents = st.sampled_from([*RASTER, *DICOMS]).flatmap(lambda one: st.one_of(st.just(one), changed_bytes(one)))
    values = st.one_of(st.just("50"), odd_values, st.sampled_from(("<script>alert(1)</script>", UNKNOWN)))
    forms = st.lists(values, min_size=3, max_size=3)

    def check(folder: Path, form: list[Any] | None) -> None:
        path = next(iter(folder.iterdir()), folder / "absent.png")
        study, views, table, message = page.load_and_answer(str(path), *(form or [UNKNOWN] * 3))
        expect(not path.is_file() and not path.is_symlink(), "the upload is still there")
        for html in (views, table, message):
            expect("<script" not in html, "an unescaped name or value")
        if study is None or not views:
            text = re.sub(r"<[^>]*>", "", message).strip()
            expect(not re.search(r"cannot be read as an image \(\w+\)", text), f"a cause without a name: {text}")
            raise ImageReadError(text)

    inputs = st.builds(lambda name, suffix, content, form: ({name + suffix: content}, form),
                       st.sampled_from(NAMES), suffixes, contents, forms)  # fmt: skip
    attacks = [*no_files("image.png")[2:], put("large.png", png_bomb(20_000, 10_000)), put("empty.png", b""),
               put("code.png", Path(__file__).read_bytes())]  # fmt: skip
    return Boundary(inputs, check, attacks)


BOUNDARIES: dict[str, Callable[[Path], Boundary]] = {
    "config": lambda folder: CONFIG, "schema": lambda folder: SCHEMAS, "plan": lambda folder: PLAN,
    "annotations": lambda folder: ANNOTATIONS, "predictions": lambda folder: PREDICTION,
    "own data": lambda folder: OWN, "labels": lambda folder: LABELS, "records": lambda folder: RECORDS,
    "image": lambda folder: IMAGE, "mask": lambda folder: MASK, "dicom": lambda folder: DICOM,
    "checkpoint": checkpoint_boundary, "upload": page_boundary,
}  # fmt: skip
"""Name → what makes the boundary, given an empty folder."""
