"""An image file that is not the one that was prepared is named before anybody trains on it."""

import os

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from PIL import Image

from mdf_detectron.data.audit import audit_folder
from mdf_detectron.data.catalog import dataset_dicts, read_prepared, register_prepared_folder
from mdf_detectron.data.loaders import build_loss_mapper, build_train_loader, make_caches
from mdf_detectron.data.pseudonyms import Privacy, Pseudonyms
from mdf_detectron.data.readers import read_record_image
from mdf_detectron.data.sources.kit.collection import WriteOptions
from mdf_detectron.data.sources.kit.preparation import prepare
from mdf_detectron.data.sources.own.collection import COLLECTION
from mdf_detectron.errors import ImageReadError
from mdf_detectron.fileio import sha256_of

CHANGED = r"is not the image that was prepared \(its SHA-256 is [0-9a-f]{8}…, not [0-9a-f]{8}…\).* remove the folder"


def model_input(path, image_format="L"):
    return read_record_image({"file_name": path}, image_format)


@pytest.fixture
def sources(tmp_path):
    """Twelve JPEG files and a table of boxes."""
    (tmp_path / "scans").mkdir()
    rng, rows = np.random.default_rng(0), ["image,x1,y1,x2,y2"]
    for number in range(12):
        pixels = np.kron(rng.integers(0, 256, (10, 12)), np.ones((8, 8))).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "scans" / f"s{number}.jpg", quality=90)
        rows.append(f"s{number}.jpg,10,10,40,50")
    (tmp_path / "boxes.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def prepared(sources, privacy=None, **options):
    out = sources / "mine"
    given = {"annotations": [sources / "boxes.csv"], "images": sources / "scans"} | (
        {"privacy": privacy} if privacy else {}
    )
    prepare(COLLECTION, out, WriteOptions(**options), num_workers=1, **given)
    return out


def records(folder, split="train"):
    return dataset_dicts(
        read_prepared(folder / f"annotations/{split}.json", folder / "clinical_schema.yaml"), folder / "images"
    )


def config_of(small_config, folder, *more):
    register_prepared_folder(folder, "digests_cxr")
    return small_config(
        "synthetic_cxr/mask_rcnn.yaml", "INPUT.IMAGE_SIZE", 48, "MODEL.ROI_HEADS.NUM_CLASSES", 1,
        "MODEL.MASK_ON", False, "MODEL.CLINICAL.NUMERIC", [], "MODEL.CLINICAL.CATEGORICAL", [],
        "MODEL.CLINICAL.VOCABULARIES", [], "DATASETS.TRAIN", ("digests_cxr_train",), "DATASETS.VAL", (),
        "SOLVER.IMS_PER_BATCH", 2, *more,
    )  # fmt: skip


def flip_silently(path):
    """Flip a bit of a file so that it decodes without an error, to another picture."""
    content, before = path.read_bytes(), model_input(path)
    for at in range(len(content) // 2, len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        try:
            if not np.array_equal(model_input(path), before):
                return
        except ImageReadError:
            pass
    raise AssertionError("no bit changes the picture alone")


@pytest.mark.parametrize("options", [{}, {"copy_images": True}])
def test_a_flipped_bit_is_named_in_training_cache_and_audit(options, sources, small_config):
    folder = prepared(sources, **options)
    found = records(folder)
    assert len({r["sha256"] for r in found}) == len(found) and not audit_folder(folder).problems
    cfg = config_of(small_config, folder, "DATALOADER.DECODED_CACHE", str(sources / "decoded"))
    make_caches(cfg, cfg.DATASETS.TRAIN)
    sound = build_loss_mapper(cfg, "digests_cxr_train")(found[0])["image"]

    flip_silently(sources / "mine" / "images" / found[0]["file_name"].rsplit("/", 1)[-1])
    plain = cfg.clone()
    plain.DATALOADER.DECODED_CACHE = ""
    with pytest.raises(ImageReadError, match=CHANGED) as caught:
        build_loss_mapper(plain, "digests_cxr_train")(found[0])
    assert found[0]["file_name"][-40:] in str(caught.value) and len(str(caught.value)) < 350
    with pytest.raises(ImageReadError, match=CHANGED):
        [batch for batch, _ in zip(build_train_loader(plain), range(len(found)), strict=False)]
    with pytest.raises(ImageReadError, match=CHANGED):
        make_caches(cfg, cfg.DATASETS.TRAIN)
    (problem,) = audit_folder(folder).problems
    assert problem.kind == "image that was changed" and "its SHA-256 is another" in problem.message
    # the others are what they were, and so is what was decoded before
    assert build_loss_mapper(plain, "digests_cxr_train")(found[1])["image"].shape == sound.shape


def test_a_damaged_copy_is_made_anew_and_not_blessed(sources):
    """Copies of the folder that is replaced are taken up; a damaged one would get a digest that says it is right."""
    folder = prepared(sources, image_size=40)
    before = {path.name: sha256_of(path) for path in folder.glob("images/*")}
    damaged = folder / "images" / "s3.png"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 4
    with open(damaged, "r+b") as file:  # in place, with its time of change
        stamp = damaged.stat().st_mtime_ns
        file.write(content)
    os.utime(damaged, ns=(stamp, stamp))
    again = prepared(sources, image_size=40, seed=2)
    assert {path.name: sha256_of(path) for path in again.glob("images/*")} == before
    assert not audit_folder(again).problems


def test_pseudonymized_folders_have_the_digests_of_what_is_in_them(sources, caplog):
    key = Pseudonyms(b"k" * 32)
    folder = prepared(sources, Privacy(key), image_size=40, folds=3)
    assert not audit_folder(folder).problems
    register_prepared_folder(folder, "digests_cxr")
    for record in DatasetCatalog.get("digests_cxr_train"):
        assert sha256_of(record["file_name"]) == record["sha256"]
    register_prepared_folder(folder / "fold_0", "digests_cxr")
    DatasetCatalog.get("digests_cxr_train")
    assert "has been changed" not in caplog.text
