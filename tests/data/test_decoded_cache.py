"""Decoded images are those that decoding gives, and are made anew when anything they were made of has changed."""

import json
import os
import pickle
import shutil
import stat
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from mdf_detectron.data.catalog import register_prepared_folder
from mdf_detectron.data.decoded_cache import DecodedCache
from mdf_detectron.data.loaders import (
    build_loss_mapper,
    build_train_loader,
    cache_path,
    make_caches,
    open_caches,
    records_of,
)
from mdf_detectron.data.raster import write_png
from mdf_detectron.errors import DatasetError, ImageReadError
from mdf_detectron.fileio import sha256_of
from mdf_detectron.locks import FolderLock

TRAIN = "cached_cxr_train"


@pytest.fixture
def cfg(small_config, tiny_folder, tmp_path):
    folder = tmp_path / "cached_cxr"
    shutil.copytree(tiny_folder, folder)
    register_prepared_folder(folder, "cached_cxr")
    return small_config(
        "synthetic_cxr/mdf_net.yaml", "MODEL.CLINICAL.NUMERIC", ["age", "temperature"], "INPUT.IMAGE_SIZE", 48,
        "MODEL.ROI_HEADS.NUM_CLASSES", 2, "DATASETS.TRAIN", (TRAIN,), "DATASETS.VAL", (), "SOLVER.IMS_PER_BATCH", 2,
        "DATALOADER.DECODED_CACHE", str(tmp_path / "decoded"),
    )  # fmt: skip


@pytest.fixture
def plain(cfg):
    """The same config without a cache."""
    plain = cfg.clone()
    plain.DATALOADER.DECODED_CACHE = ""
    return plain


def reason_of(cfg):
    return DecodedCache.open(cache_path(cfg, TRAIN), records_of([TRAIN]))[1]


def batches(cfg, count=6):
    stream = iter(build_train_loader(cfg))
    return [image for _ in range(count) for image in next(stream)]


def change_entry(name, **values):
    """Change the entry of an image in the annotation file."""
    path = Path(name).parents[1] / "annotations" / "train.json"
    data = json.loads(path.read_text())
    next(image for image in data["images"] if image["file_name"] == Path(name).name).update(values)
    path.write_text(json.dumps(data))


def deepen(record):
    """Write 16 bits over an image, as if it had been prepared so."""
    pixels = np.random.default_rng(0).integers(0, 65536, (record["height"], record["width"])).astype(np.uint16)
    write_png(record["file_name"], pixels)
    change_entry(record["file_name"], sha256=sha256_of(record["file_name"]))


def test_training_sees_the_same_images_boxes_and_masks(cfg, plain):
    (cache,) = make_caches(cfg, [TRAIN])
    assert len(cache) == 8 and cache.path.stat().st_size < 8 * 48 * 48 + 200
    made = (cache.path, cache.path.with_suffix(".json"), cache.path.parent)
    for file in made[:2]:
        file.chmod(0o644)  # as an earlier version made it
    make_caches(cfg, [TRAIN])
    assert [stat.S_IMODE(path.stat().st_mode) for path in made] == [0o600, 0o600, 0o700], "for the owner alone"
    unchanged, records = build_loss_mapper(cfg, TRAIN), {r["image_id"]: r for r in records_of([TRAIN])}
    cached, flipped = batches(cfg), 0
    for one, other in zip(cached, batches(plain), strict=True):
        assert one["image_id"] == other["image_id"] and torch.equal(one["image"], other["image"])
        a, b = one["instances"], other["instances"]
        assert a.image_size == b.image_size and torch.equal(a.gt_boxes.tensor, b.gt_boxes.tensor)
        masks = zip(a.gt_masks.polygons, b.gt_masks.polygons, strict=True) if len(a) else ()
        assert all(np.array_equal(p[0], q[0]) for p, q in masks)
        flipped += not torch.equal(one["image"], unchanged(records[one["image_id"]])["image"])
    assert 0 < flipped < len(cached), "the flip is drawn after the cache"


@pytest.mark.parametrize("deep", [False, True], ids=["8 bits", "one of 16 bits"])
def test_augmentation_is_the_same_after_the_cache(cfg, plain, deep):
    if deep:  # the cache then holds float pixels of all
        deepen(records_of([TRAIN])[5])
    for config in (cfg, plain):
        config.INPUT.RANDOM_SCALE, config.INPUT.RANDOM_SHIFT = 0.2, 0.1
        config.INPUT.RANDOM_JITTER = [0.5, 0.3]
    make_caches(cfg, [TRAIN])
    for one, other in zip(batches(cfg), batches(plain), strict=True):
        assert torch.equal(one["image"], other["image"])
        assert 0 <= one["image"].min() and one["image"].max() <= 255


def test_images_of_16_bits_keep_their_depth_beside_others_of_8(cfg, plain):
    deepen(records_of([TRAIN])[5])
    deep, flat = records_of([TRAIN])[5], records_of([TRAIN])[0]
    (cache,) = make_caches(cfg, [TRAIN])
    for record in (deep, flat):
        image = build_loss_mapper(plain, TRAIN)(record)["image"]
        assert torch.equal(build_loss_mapper(cfg, TRAIN)(record)["image"], image)
        assert torch.equal(torch.from_numpy(cache.get(record["file_name"]).pixels[:, :, 0].copy()), image[0])
        assert torch.equal(image, image.round()) == (record is flat)
    assert reason_of(cfg) == ""


def test_a_mapper_leaves_the_record_as_it_is(cfg):
    make_caches(cfg, [TRAIN])
    record = records_of([TRAIN])[1]
    before = json.dumps(record)
    build_loss_mapper(cfg, TRAIN)(record)
    assert json.dumps(record) == before


def test_another_process_maps_the_file_itself(cfg):
    (cache,) = make_caches(cfg, [TRAIN])
    name = records_of([TRAIN])[0]["file_name"]
    pixels = cache.get(name).pixels
    assert isinstance(pixels, np.memmap) and not pixels.flags.writeable
    sent = pickle.dumps(cache)
    assert len(sent) < 3000
    assert np.array_equal(pickle.loads(sent).get(name).pixels, pixels)
    assert cache.get("another.png") is None


def test_what_does_not_fit_is_made_anew(cfg, caplog):
    path = cache_path(cfg, TRAIN)
    with pytest.raises(DatasetError, match=r"of 'cached_cxr_train': it is not there; make it by `mdf cache`"):
        open_caches(cfg, [TRAIN])
    make_caches(cfg, [TRAIN])
    assert reason_of(cfg) == "" and len(open_caches(cfg, [TRAIN])) == 1
    made = path.stat().st_mtime_ns
    make_caches(cfg, [TRAIN])
    assert path.stat().st_mtime_ns == made, "a cache that fits stays"

    index = json.loads(path.with_suffix(".json").read_text())
    for changed, expected in (
        (index | {"version": 0}, "another version of this program made it"),
        (index | {"made_of": index["made_of"][1:]}, "the data set or its image files have changed"),
        ({k: v for k, v in index.items() if k != "sizes"}, "it cannot be read ('sizes')"),
        (index | {"checksums": None}, "it cannot be read (object of type 'NoneType' has no len())"),
        (index | {"sizes": index["sizes"][1:]}, "its index does not fit its pixels"),
        ({}, r"it cannot be read ('version')"),
    ):
        path.with_suffix(".json").write_text(json.dumps(changed))
        assert reason_of(cfg) == expected
    with caplog.at_level("INFO"):
        make_caches(cfg, [TRAIN])
    assert "it cannot be read" in caplog.text and reason_of(cfg) == ""

    path.write_bytes(b"")
    assert reason_of(cfg).startswith("it cannot be read (")
    make_caches(cfg, [TRAIN])
    assert reason_of(cfg) == ""

    name = records_of([TRAIN])[2]["file_name"]
    for change in (lambda: os.utime(name, ns=(1, 1)), lambda: change_entry(name, sha256="0" * 64)):
        make_caches(cfg, [TRAIN])
        change()
        assert reason_of(cfg) == "the data set or its image files have changed"


def test_a_killed_build_leaves_nothing_behind(cfg):
    path = cache_path(cfg, TRAIN)
    path.parent.mkdir()
    dead = [path.with_name(f"{path.name}.123.partial"), path.with_name(f"{path.stem}.json.123.partial")]
    other = path.with_name("another_48_L.npy.123.partial")
    for file in (*dead, other):
        file.touch()
    (cache,) = make_caches(cfg, [TRAIN])
    assert set(path.parent.iterdir()) == {path, path.with_suffix(".json"), other}


def test_a_cache_that_another_process_makes_is_waited_for(cfg, monkeypatch):
    path, opened, waits = cache_path(cfg, TRAIN), [], threading.Event()
    monkeypatch.setattr("mdf_detectron.locks.logger.warning", lambda *message: waits.set())
    with FolderLock(path, in_parent=True):
        waiting = threading.Thread(target=lambda: opened.extend(make_caches(cfg, [TRAIN])))
        waiting.start()
        assert waits.wait(60)
        DecodedCache.build(path, records_of([TRAIN]), lambda image: image[:48, :48], "L")
        made = path.stat().st_mtime_ns
    waiting.join(60)
    assert [cache.path for cache in opened] == [path] and path.stat().st_mtime_ns == made


def test_a_split_without_images_is_one_line(cfg, monkeypatch):
    monkeypatch.setattr("mdf_detectron.data.loaders.records_of", lambda names: [])
    with pytest.raises(DatasetError, match=f"dataset '{TRAIN}' has no image; prepare it with one at least"):
        make_caches(cfg, [TRAIN])


def test_damaged_pixels_and_images_of_another_size(cfg, monkeypatch):
    (cache,) = make_caches(cfg, [TRAIN])
    content = bytearray(cache.path.read_bytes())
    content[-5] ^= 1
    cache.path.write_bytes(content)
    (cache,) = open_caches(cfg, [TRAIN])
    records = records_of([TRAIN])
    cache.get(records[0]["file_name"])
    with pytest.raises(ImageReadError, match="image 7 is damaged; remove the file"):
        cache.get(records[7]["file_name"])

    records[3]["height"] += 1
    with pytest.raises(DatasetError, match=r"has 96 × 80 pixels, its annotation file says 96 × 81"):
        DecodedCache.build(cache.path, records, lambda x: x, "L")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(DatasetError, match="the disk has 0.0; name a folder on another one"):
        DecodedCache.build(cache.path, records, lambda x: x, "L")
