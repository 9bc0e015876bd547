"""Boundaries of models: checkpoints, and the page that serves a model."""

from __future__ import annotations

import copy
import io
import os
import pickle
import random
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.modeling import build_model

from fuzzing.boundary import Boundary, expect
from fuzzing.images import dicom_files, png_bomb, raster_files
from fuzzing.mutations import flip_bit, mutate_bytes, mutate_data, odd_value
from fuzzing.texts import SCHEMA, no_files, put
from mdf_detectron.checkpoint.checkpoint import CONFIG_KEY, CONTENTS_KEY, Checkpoint, signed
from mdf_detectron.checkpoint.checkpointer import MultimodalCheckpointer
from mdf_detectron.checkpoint.contents import FORMAT, column_statistics
from mdf_detectron.config_file import load_config
from mdf_detectron.errors import ImageReadError
from mdf_detectron.fileio import CONFIGS
from mdf_detectron.inference.predictor import Predictor
from mdf_detectron.serving.page import UNKNOWN, StudyPage

SMALL = ["MODEL.DEVICE", "cpu", "MODEL.CLINICAL.NUMERIC", ["age", "temperature"], "MODEL.CLINICAL.CATEGORICAL",
         ["gender"], "MODEL.CLINICAL.VOCABULARIES", [["F", "M"]], "MODEL.ROI_HEADS.NUM_CLASSES", 2,
         "MODEL.CLINICAL.BRANCH", "compact", "MODEL.ROI_BOX_HEAD.FC_DIM", 16, "MODEL.ROI_MASK_HEAD.CONV_DIM", 8,
         "MODEL.ROI_MASK_HEAD.NUM_CONV", 1, "INPUT.IMAGE_SIZE", 64]  # fmt: skip


class Evil:
    """What a pickle makes a process run."""

    def __init__(self, call: Callable[..., Any] = os.system, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments or ("true",)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call, self.arguments


def small_checkpoint(folder: Path) -> Path:
    """Write a checkpoint of an untrained small model with contents, as a training would."""
    torch.manual_seed(0)
    cfg = load_config(CONFIGS / "synthetic_cxr" / "mdf_net.yaml", SMALL)
    model = build_model(cfg)
    records = [{"age": 40.0 + i, "temperature": 98.0, "gender": "FM"[i % 2]} for i in range(6)]
    rows = torch.tensor([[r["age"], r["temperature"]] for r in records])
    model.backbone.clinical_encoder.fit(rows, torch.arange(6)[:, None] % 2)
    contents = {
        "format": FORMAT, "software": {"torch": str(torch.__version__)}, "class_names": ["effusion", "mass"],
        "category_ids": [1, 2], "schema": SCHEMA.to_dict(), "columns": ["age", "temperature", "gender"],
        "training": {"datasets": ["x_train"], "images": 6, "patients": 6, "columns": column_statistics(SCHEMA,
        records)},
        "image": {"format": "L", "size": 64, "resize": "square", "mean": [0.0], "std": [1.0],
        "black_and_white_percentiles": [0.5, 99.5]}, "missing_records": {"missing": "indicator", "dropout_record": 0.0,
        "dropout_value": 0.0}, "operating_point": None, "calibration": None, "results": None,
    }  # fmt: skip
    MultimodalCheckpointer(model, str(folder), cfg=cfg, contents=contents).save("model")
    return folder / "model.pth"


def _checkpoint_setup(folder: Path) -> dict[str, Any]:
    torch.set_num_threads(1)
    path = small_checkpoint(folder)
    return {"content": path.read_bytes(), "data": Checkpoint.open(path).data}


def saved(data: Any) -> bytes:
    """Serialize as a checkpoint."""
    buffer = io.BytesIO()
    torch.save(data, buffer)
    return buffer.getvalue()


def _checkpoint_make(rng: random.Random, folder: Path, state: Any) -> tuple[Path, str]:
    way = rng.random()
    if way < 0.5:
        return put(folder, "m.pth", flip_bit(rng, state["content"])), "flip"
    if way < 0.65:
        return put(folder, "m.pth", mutate_bytes(rng, state["content"])), "flip"
    data = dict(state["data"])
    if way < 0.85:
        data[CONTENTS_KEY] = mutate_data(rng, copy.deepcopy(data[CONTENTS_KEY]))
    elif way < 0.92:
        data[CONFIG_KEY] = mutate_bytes(rng, data[CONFIG_KEY].encode()).decode(errors="replace")
    else:
        name = rng.choice(list(data["model"]))
        data["model"] = {**data["model"], name: rng.choice([odd_value(rng), *_odd_tensors(data["model"][name])])}
    return put(folder, "m.pth", _signed(data)), "edited"


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


def _checkpoint_check(given: Any, state: Any) -> None:
    path, kind = given if isinstance(given, tuple) else (given, "edited")
    predictor = Predictor(path, device="cpu")
    if kind == "flip":
        loaded, original = Checkpoint.open(path).data, state["data"]
        expect(
            loaded[CONTENTS_KEY] == original[CONTENTS_KEY] and loaded[CONFIG_KEY] == original[CONFIG_KEY], "contents"
        )
        same = all(torch.equal(loaded["model"][name], value) for name, value in original["model"].items())
        expect(same and loaded["model"].keys() == original["model"].keys(), "other weights were loaded")
    found = predictor(np.zeros((64, 64), np.uint8), None)
    expect(all(0 <= finding.score <= 1 for finding in found.findings), "scores")


def _bomb(name: str, size: int) -> bytes:
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


def _edited(**changes: Any) -> Callable[[Path, Any], Path]:
    return lambda folder, state: put(folder, "m.pth", _signed({**state["data"], **copy.deepcopy(changes)}))


def _checkpoint_attacks() -> list[Callable[[Path, Any], Any]]:
    deep: Any = 1
    for _ in range(200):
        deep = [deep]
    evil = [pickle.dumps(Evil()), pickle.dumps(Evil(exec, "open('/outside/x', 'w')")), saved({"model": Evil()}),
            saved({"model": {}, CONTENTS_KEY: Evil(eval, "1")}), pickle.dumps({"model": Evil(os.popen,
            "true")})]  # fmt: skip
    contents: list[Callable[[], bytes]] = [
        *(lambda c=c: c for c in (*evil, b"", b"PK\x03\x04", b"PK\x05\x06" + b"\0" * 18, b"x" * 1000)),
        lambda: saved([1]), lambda: saved({}), lambda: saved({"model": 3}), lambda: saved(deep),
        lambda: saved({"model": {}}), lambda: _bomb("data.pkl", 1 << 30), lambda: _bomb("data/0", 3 << 30),
        lambda: saved({"model": {"x": torch.zeros(1).expand(10**12)}}),
    ]  # fmt: skip
    edited = [_edited(model={}), _edited(model=[]), _edited(model={1: torch.zeros(1)}), _edited(mdf_config=3),
              _edited(mdf_config="a: &a [*a]"), _edited(mdf_config="MODEL: {WEIGHTS: x}"), _edited(contents=[]),
              _edited(contents={"format": FORMAT}), _edited(sha256=3), _edited(contents={}),
              _edited(mdf_config="MODEL: {FPN: {OUT_CHANNELS: 1000000000}}")]  # fmt: skip
    return [*no_files("m.pth"), *edited, *(lambda folder, state, c=c: put(folder, "m.pth", c()) for c in contents)]


CHECKPOINT = Boundary("checkpoint", _checkpoint_setup, _checkpoint_make, _checkpoint_check, _checkpoint_attacks())


# --- the page


def _upload_setup(folder: Path) -> dict[str, Any]:
    torch.set_num_threads(1)
    page = StudyPage(Predictor(small_checkpoint(folder), device="cpu"))
    return {"page": page, "files": [*raster_files(), *((".dcm", content) for content in dicom_files())]}


_NAMES = ("image", "<script>alert(1)<br>", "a b", "ä\u202eö", "x" * 200, "..x", "'\"&amp;", "%00", "-rf")


def _upload_make(rng: random.Random, folder: Path, state: Any) -> tuple[Path, list[Any]]:
    suffix, content = rng.choice(state["files"])
    content = mutate_bytes(rng, content) if rng.random() < 0.8 else content
    values: list[Any] = ["50", UNKNOWN, "F"]
    if rng.random() < 0.5:
        text = odd_value(rng)
        values[rng.randrange(3)] = rng.choice([text, "<script>alert(1)</script>", UNKNOWN])
    return put(folder, rng.choice(_NAMES) + rng.choice((suffix, suffix, ".dcm", "")), content), values


def _upload_check(given: tuple[Path, list[Any]], state: Any) -> None:
    path, values = given if isinstance(given, tuple) else (given, [UNKNOWN] * 3)
    study, views, table, message = state["page"].load_and_answer(str(path), *values)
    expect(not path.is_file() and not path.is_symlink(), "the upload is still there")
    for html in (views, table, message):
        expect("<script" not in html, "an unescaped name or value")
    if study is None or not views:
        text = re.sub(r"<[^>]*>", "", message).strip()
        expect(not re.search(r"cannot be read as an image \(\w+\)", text), f"a cause without a name: {text}")
        raise ImageReadError(text)


UPLOAD = Boundary("upload", _upload_setup, _upload_make, _upload_check, [
    *(attack for attack in no_files("image.png")[2:5]),
    lambda folder, state: put(folder, "large.png", png_bomb(20_000, 10_000)),
    lambda folder, state: put(folder, "empty.png", b""),
    lambda folder, state: Path(shutil.copy(__file__, folder / "code.png")),
])  # fmt: skip
