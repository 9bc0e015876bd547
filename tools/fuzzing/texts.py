"""Boundaries of text files: configs with overrides, schemas, annotations, predictions, zoo files."""

from __future__ import annotations

import json
import math
import os
import random
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode

from fuzzing.boundary import Boundary, expect
from fuzzing.mutations import mutate_bytes, mutate_data, odd_value
from mdf_detectron.config_file import get_mdf_cfg, load_config
from mdf_detectron.data.annotations import LARGEST_COORDINATE, LARGEST_SIDE
from mdf_detectron.data.catalog import load_records
from mdf_detectron.data.schema import ClinicalColumn, ClinicalSchema
from mdf_detectron.evaluation.coco import Detections, GroundTruth
from mdf_detectron.evaluation.froc import froc_detections
from mdf_detectron.experiments.plan import PLANS
from mdf_detectron.experiments.plan_file import read_plan
from mdf_detectron.fileio import CONFIGS

SCHEMA = ClinicalSchema(
    (
        ClinicalColumn("age", "numeric", "years", 0, 120),
        ClinicalColumn("temperature", "numeric", "°F", 80, 113),
        ClinicalColumn("gender", "categorical", vocabulary=("F", "M")),
    )
)
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


def dump_json(data: Any) -> bytes:
    """Write JSON with whatever is in it, NaN and lone surrogates included."""
    return json.dumps(data, default=str).encode()


def dump_yaml(data: Any) -> bytes:
    """Write YAML with whatever is in it."""
    return yaml.safe_dump(data, allow_unicode=False).encode("utf-8", "surrogatepass")


def mutated_text(rng: random.Random, data: Any, dump: Callable[[Any], bytes]) -> bytes:
    """Mutate nested data, its text, or both."""
    way = rng.random()
    content = dump(mutate_data(rng, data) if way < 0.7 else data)
    return mutate_bytes(rng, content) if way > 0.6 else content


def put(folder: Path, name: str, content: bytes | str) -> Path:
    """Write a file of an input and return its path."""
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def not_a_file(kind: str, name: str) -> Callable[[Path, Any], Path]:
    """Make an attack: a pipe, a folder, a link to itself, a device, or nothing in the place of a file."""

    def make(folder: Path, state: Any) -> Path:
        path = folder / name
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        elif kind == "circle":
            path.symlink_to(path.name)
        elif kind == "device":
            path.symlink_to("/dev/zero")
        return path if kind != "name" else folder / ("x" * 300 + name)

    return make


def no_files(name: str) -> list[Callable[[Path, Any], Path]]:
    """List the attacks of :func:`not_a_file`."""
    return [not_a_file(kind, name) for kind in ("pipe", "folder", "circle", "device", "absent", "name")]


def text_attacks(name: str) -> list[Callable[[Path, Any], Path]]:
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
    return [*no_files(name), *(lambda folder, state, c=c: put(folder, name, c) for c in contents)]


# --- configs


def _leaves(cfg: CfgNode, prefix: str = "") -> dict[str, Any]:
    found = {}
    for key, value in cfg.items():
        name = f"{prefix}{key}"
        found |= _leaves(value, f"{name}.") if isinstance(value, CfgNode) else {name: value}
    return found


def _config_setup(folder: Path) -> Any:
    base = CONFIGS.resolve() / "synthetic_cxr" / "mdf_net.yaml"
    seed = yaml.safe_load((base.parent / "Base-Synthetic-CXR.yaml").read_text())
    return {"leaves": _leaves(get_mdf_cfg()), "seed": {**seed, "_BASE_": str(base)}, "base": str(base)}


def _config_make(rng: random.Random, folder: Path, state: Any) -> tuple[Path, list[str]]:
    way, opts = rng.random(), []
    if way < 0.4:
        content = mutated_text(rng, state["seed"], dump_yaml)
    else:
        content = dump_yaml({"_BASE_": state["base"]})
        for _ in range(rng.choice((1, 1, 2))):
            key = rng.choice(list(state["leaves"]))
            value = odd_value(rng) if way < 0.7 else mutate_data(rng, [state["leaves"][key]])
            if way >= 0.7:
                value = value[0] if isinstance(value, list) and value else value
            opts += [key if rng.random() < 0.95 else key + ".x", str(value)]
        if rng.random() < 0.5:  # the same in the file
            path, value = opts[0].split("."), opts[1]
            data: Any = value
            for part in reversed(path):
                data = {part: data}
            content, opts = dump_yaml({"_BASE_": state["base"], **data}), []
        elif rng.random() < 0.05:
            opts.pop()
    return put(folder, "c.yaml", content), opts


def _config_check(given: tuple[Path, list[str]], state: Any) -> None:
    path, opts = given if isinstance(given, tuple) else (given, [])
    cfg = load_config(path, opts)
    for key, value in _leaves(cfg).items():
        expect(_plain(value), f"{key} is {value!r}")
        expect((value is None) == (state["leaves"].get(key) is None) or value is not None, f"{key} is null")
    again = put(path.parent if path.parent.is_dir() else Path("."), "again.yaml", cfg.dump())
    other = {key: value for key, value in _leaves(load_config(again)).items() if value != _leaves(cfg)[key]}
    lists = {key: json.dumps(value) for key, value in other.items()}  # inner tuples become lists
    different = [key for key, value in lists.items() if value != json.dumps(_leaves(cfg)[key])]
    expect(not different, f"the dumped config has other values of {different}")


def _plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_plain, value))
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, int):
        return abs(value) <= 2**63
    return value is None or isinstance(value, str)


CONFIG = Boundary("config", _config_setup, _config_make, _config_check, [
    *text_attacks("c.yaml"),
    *(lambda folder, state, t=t: put(folder, "c.yaml", t) for t in (
        "_BASE_: c.yaml", "_BASE_: http://127.0.0.1:9/c.yaml", "_BASE_: https://example.org/c.yaml",
        "_BASE_: /dev/zero",
        "_BASE_: [c.yaml, c.yaml]", "_BASE_: {a: 1}", "_BASE_: ''", "_BASE_: ~nobody",
        "_BASE_: s3://bucket/c.yaml", "_BASE_: detectron2://c.yaml", "MODEL: 3", "MODEL: {1: 2}",
        "SOLVER: {MAX_ITER: }",
    )),
    *(lambda folder, state, o=o: (put(folder, "c.yaml", f"_BASE_: {state['base']}"), o) for o in (
        ["MODEL.DEVICE.x", "1"], ["MODEL", "1"], ["", ""], ["VERSION", "1"], ["SOLVER.MAX_ITER"], ["SOLVER.MAX_ITER",
        "["],
        ["SOLVER.MAX_ITER", "(" * 5000], ["SOLVER.STEPS", "-" * 50_000 + "1"], ["SOLVER.BASE_LR", "1e999"],
        ["SOLVER.MAX_ITER", "9" * 400], ["OUTPUT_DIR", "a\0b"], ["SOLVER.MAX_ITER", "None"], ["_BASE_", "x"],
        ["MODEL.PIXEL_MEAN", "[...]"], ["MODEL.PIXEL_MEAN", "['a']"], ["MODEL.WEIGHTS", "x" * 10**6],
    )),
])  # fmt: skip


# --- schemas


def _schema_make(rng: random.Random, folder: Path, state: Any) -> Path:
    return put(folder, "s.yaml", mutated_text(rng, SCHEMA.to_dict(), dump_yaml))


def _schema_check(path: Path, state: Any) -> None:
    schema = ClinicalSchema.load(path)
    for column in schema.columns:
        expect(isinstance(column.name, str) and column.name.strip() != "", f"name {column.name!r}")
        if column.kind == "numeric":
            expect(column.minimum <= column.maximum, "limits")
        else:
            expect(len(set(column.vocabulary)) == len(column.vocabulary) > 0, "vocabulary")
    schema.parse_record({}, "record")
    again = path.parent / "again.yaml"
    schema.save(again)
    expect(ClinicalSchema.load(again) == schema, "the saved schema reads as another one")


SCHEMAS = Boundary("schema", lambda folder: None, _schema_make, _schema_check, text_attacks("s.yaml"))


# --- annotations


def _coco_setup(folder: Path) -> Path:
    SCHEMA.save(folder / "schema.yaml")
    return folder / "schema.yaml"


def _coco_make(rng: random.Random, folder: Path, state: Any) -> Path:
    return put(folder, "a.json", mutated_text(rng, COCO, dump_json))


def _coco_check(path: Path, schema_file: Path) -> None:
    records = load_records(path, path.parent / "images", schema_file)
    for record in records:
        inside = os.path.realpath(record["file_name"]).startswith(os.path.realpath(path.parent / "images") + os.sep)
        expect(inside, f"file_name {record['file_name']} leads out of images/")
        expect(0 < record["width"] <= LARGEST_SIDE and 0 < record["height"] <= LARGEST_SIDE, "size")
        expect(isinstance(record["patient_id"], str) and record["patient_id"] != "", "patient")
        expect(record["sha256"] is None or re.fullmatch("[0-9a-f]{64}", record["sha256"]) is not None, "digest")
        for annotation in record["annotations"]:
            _check_box(annotation["bbox"])
            expect(0 <= annotation["category_id"], "category")
    expect(len({record["image_id"] for record in records}) == len(records), "image ids")
    ground_truth = GroundTruth.load(path)
    expect(ground_truth.num_images == len(records), "scoring reads another number of images")


def _check_box(box: Any) -> None:
    x, y, w, h = box
    expect(all(math.isfinite(v) and abs(v) <= LARGEST_COORDINATE for v in box) and w > 0 and h > 0, f"bbox {box}")


ANNOTATIONS = Boundary("annotations", _coco_setup, _coco_make, _coco_check, [
    *text_attacks("a.json"),
    *(lambda folder, state, n=n: put(folder, "a.json", dump_json(
        {**COCO, "images": [{**COCO["images"][0], "file_name": n}], "annotations": []})) for n in (
        "../outside/secret.png", "../../outside/secret.png", "/outside/secret.png", "a/../../outside/secret.png",
        "C:\\secret.png", "\\\\host\\x", "..", ".", "", "a\0b", "~/x", "http://127.0.0.1:9/x.png", "x" * 10**5)),
    *(lambda folder, state, s=s: put(folder, "a.json", dump_json(
        {**COCO, "annotations": [{**COCO["annotations"][0], "segmentation": s}]})) for s in (
        [[1e308] * 6], [[-1e308, 0, 1e308, 0, 0, 1e308]], [[10**400] * 6], [[0, 0, 1, 1, math.nan, 2]],
        {"size": [10**9, 10**9], "counts": "0"}, {"size": [48, 64], "counts": [10**30, 1]},
        {"size": [48, 64], "counts": "~" * 1000}, {"size": [-48, 64], "counts": [0]}, {"size": [48, 64],
        "counts": "\ud800"},
        [[10, 10, 30, 10, 30, 30] * 20_000])),
])  # fmt: skip


# --- predictions


def _predictions_setup(folder: Path) -> GroundTruth:
    return GroundTruth.load(COCO)


def _predictions_make(rng: random.Random, folder: Path, state: Any) -> Path:
    return put(folder, "p.json", mutated_text(rng, PREDICTIONS, dump_json))


def _predictions_check(path: Path, ground_truth: GroundTruth) -> None:
    found = Detections.load(path, ground_truth)
    expect(bool((abs(found.boxes) <= LARGEST_COORDINATE).all() and (found.boxes[:, 2:] >= 0).all()), "boxes")
    expect(all(map(math.isfinite, found.scores.tolist())), "scores")
    for criterion in ("iou", "iobb"):
        froc_detections(ground_truth, found, criterion=criterion)


PREDICTION = Boundary("predictions", _predictions_setup, _predictions_make, _predictions_check, text_attacks("p.json"))


# --- plans of studies


def _plan_setup(folder: Path) -> Any:
    return yaml.safe_load((PLANS / "does_it_help.yaml").read_text())


def _plan_make(rng: random.Random, folder: Path, state: Any) -> Path:
    return put(folder, "p.yaml", mutated_text(rng, state, dump_yaml))


def _plan_check(path: Path, state: Any) -> None:
    plan = read_plan(path)
    names = [variant.name for variant in plan.variants]
    expect(len(set(names)) == len(names) > 0, f"variants {names}")
    expect(all(type(seed) is int and abs(seed) < 2**63 for seed in plan.seeds), f"seeds {plan.seeds}")


PLAN = Boundary("plan", _plan_setup, _plan_make, _plan_check, text_attacks("p.yaml"))
