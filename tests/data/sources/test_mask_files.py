"""Masks as findings: values, components, specks, holes, sizes, soft masks; the collections that are drawn as masks."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from mdf_detectron.cli.prepare import main
from mdf_detectron.data.audit import audit_folder
from mdf_detectron.data.readers import read_mask
from mdf_detectron.data.sources.isic2017 import PARTS
from mdf_detectron.data.sources.kit.masks import MaskOptions, binary_mask, list_masks, split_mask
from mdf_detectron.errors import ImageReadError, SourceDataError
from tests.data.sources.public_trees import prepare
from tests.data.sources.reading_back import read_prepared

# --- the kit


def slow_components(mask: np.ndarray) -> list[set[tuple[int, int]]]:
    """Flood fill over eight neighbors, in the order of the first pixel."""
    left, parts = set(zip(*map(list, np.nonzero(mask)), strict=True)), []
    while left:
        todo, part = [min(left)], set()
        while todo:
            y, x = todo.pop()
            if (y, x) in left:
                left.remove((y, x))
                part.add((y, x))
                todo += [(y + j, x + i) for j in (-1, 0, 1) for i in (-1, 0, 1)]
        parts.append(part)
    return parts


@pytest.mark.parametrize("specks", [0, 0.1, 0.5])
def test_components_and_specks_agree_with_a_flood_fill(specks):
    rng = np.random.default_rng(3)
    for _ in range(20):
        mask = rng.random((12, 17)) < 0.3
        parts = slow_components(mask)
        most = max(map(len, parts))
        wanted = [part for part in parts if len(part) >= specks * most]
        found, dropped = split_mask(mask, MaskOptions(components=True, specks=specks))
        pixels = [set(zip(*map(list, np.nonzero(part)), strict=True)) for part in found]
        assert sorted(map(sorted, pixels)) == sorted(map(sorted, wanted)) and dropped == len(parts) - len(wanted)
        (whole,), dropped = split_mask(mask, MaskOptions(specks=specks))
        assert set(zip(*map(list, np.nonzero(whole)), strict=True)) == set().union(*wanted)
        assert dropped == len(parts) - len(wanted)
    assert split_mask(np.zeros((4, 5), bool), MaskOptions()) == ([], 0)


def test_values_of_a_mask():
    def read(values, dtype=np.uint8):
        mask, soft = binary_mask(np.array([values], dtype))
        return mask[0].tolist(), soft

    assert read([0, 1, 1]) == read([0, 255, 255]) == read([0, 7, 7], np.uint16) == ([False, True, True], False)
    assert read([0, 0.25, 0.25], np.float32) == ([False, True, True], False)
    assert read([0, 127, 128, 255]) == ([False, False, True, True], True)
    assert read([0, 0.4, 0.5, 0.9], np.float32) == ([False, False, True, True], True)
    assert read([0, 300, 65535], np.int32) == ([False, False, True], True)
    assert read([3, 3], np.uint8) == ([True, True], False)
    with pytest.raises(ValueError, match=r"3 values \(0, 1, 2 …\), none from half of white \(255\) on; name the class"):
        read([0, 1, 2])
    for bad in ([0, np.nan], [-1, 1]):
        with pytest.raises(ValueError, match="below 0 or not finite"):
            read(bad, np.float64)
    with pytest.raises(ValueError, match="225 separate parts, more than 200"):
        split_mask(np.kron(np.ones((15, 15)), [[1, 0], [0, 0]]) > 0, MaskOptions(components=True))
    with pytest.raises(SourceDataError, match="--specks must be a share from 0 to 1, got 2"):
        MaskOptions(specks=2)


def test_mask_files_of_any_format(tmp_path):
    mask = np.zeros((5, 6), np.uint8)
    mask[1:3, 2:5] = 1
    palette = Image.fromarray(mask).convert("P")
    palette.putpalette([0, 0, 0, 200, 0, 0])
    inverse = Image.fromarray(1 - mask).convert("P")
    inverse.putpalette([255, 255, 255, 0, 0, 0])
    images = {"l.png": Image.fromarray(mask), "one.png": Image.fromarray(mask > 0), "p.png": palette,
              "t.tif": Image.fromarray(mask * 255), "i.png": Image.fromarray(mask.astype(np.uint16) * 999),
              "rgba.png": Image.fromarray(mask * 255).convert("RGBA"), "gray_palette.png": inverse}  # fmt: skip
    for name, image in images.items():
        image.save(tmp_path / name)
        samples = read_mask(tmp_path / name)
        assert samples.shape == mask.shape and (binary_mask(samples)[0] == (mask > 0)).all(), name
    for array in (mask, mask > 0, mask[:, :, None].astype(np.float32)):
        np.save(tmp_path / "a.npy", array)
        assert (read_mask(tmp_path / "a.npy") == mask).all()
    Image.fromarray(np.dstack([mask, mask * 2, mask])).save(tmp_path / "rgb.png")
    np.save(tmp_path / "three.npy", np.dstack([mask, mask * 2]))
    for name in ("rgb.png", "three.npy"):
        with pytest.raises(ImageReadError, match=f"{name}.* several channels; save one gray mask for each class"):
            read_mask(tmp_path / name)
    np.save(tmp_path / "object.npy", np.array([{}]), allow_pickle=True)
    (tmp_path / "short.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-50])
    (tmp_path / "text.png").write_text("no image")
    for name in ("object.npy", "short.npy", "text.png", "absent.png"):
        with pytest.raises(ImageReadError, match=name):
            read_mask(tmp_path / name)


def test_names_of_masks(tmp_path):
    for name in ("a_mask.png", "a_mask_1.png", "b_mask.npy", "a.png", "b_mask.txt", "sub/c_mask.tif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = {stem: [p.name for p in paths] for stem, paths in list_masks(tmp_path, "{stem}_mask*").items()}
    assert found == {"a": ["a_mask.png", "a_mask_1.png"], "b": ["b_mask.npy"], "c": ["c_mask.tif"]}
    assert list(list_masks(tmp_path, "{stem}_mask")) == ["a", "b", "c"]
    for name in ("mask", "{stem}{stem}"):
        with pytest.raises(SourceDataError, match="--mask-name"):
            list_masks(tmp_path, name)


# --- the collections


def mask_of(*boxes, shape=(40, 60), hole=None) -> np.ndarray:
    """A mask of XYWH boxes, in pixels."""
    mask = np.zeros(shape, bool)
    for x, y, w, h in boxes:
        mask[y : y + h, x : x + w] = True
    if hole:
        mask[hole] = False
    return mask


def save(path, array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def color(number, shape=(40, 60)) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 255, (*shape, 3)).astype(np.uint8)


def write_isic(root, parts=("Training",), count=8, more=(), masks=None):
    """``count`` images a part, of 60×40: melanoma, keratosis, nevus in turn; a speck and a hole in each mask."""
    for part in parts:
        lines, record = ["image_id,melanoma,seborrheic_keratosis"], ["image_id,age_approximate,sex"]
        name = f"ISIC-2017_{part}"
        for i in range(count):
            key = f"ISIC_{len(part)}{i}"
            save(root / f"{name}_Data" / f"{key}.jpg", color(i))
            save(root / f"{name}_Data" / f"{key}_superpixels.png", color(i))
            mask = (masks or {}).get(key, mask_of((10, 5, 30, 20), (55, 35, 1, 1), hole=(8, 20)))
            save(root / f"{name}_Part1_GroundTruth" / f"{key}_segmentation.png", mask)
            lines.append(f"{key},{float(i % 3 == 0)},{float(i % 3 == 1)}")
            record.append(f"{key},{('unknown', 30 + i)[i > 0]},{('male', 'female', 'unknown')[i % 3]}")
        (root / f"{name}_Part3_GroundTruth.csv").write_text("\n".join([*lines, *more]) + "\n")
        (root / f"{name}_Data" / f"{name}_Data_metadata.csv").write_text("\n".join(record) + "\n")
    return root


def test_isic(tmp_path):
    root, out = write_isic(tmp_path / "raw"), tmp_path / "isic2017"
    made = prepare("isic2017", root, out)
    assert made.images["ISIC_80"]["boxes"] == [("melanoma", [10, 5, 30, 20])]
    assert [made.images[f"ISIC_8{i}"]["boxes"][0][0] for i in (1, 2)] == ["seborrheic keratosis", "nevus"]
    assert made.values("age")["ISIC_80"] is None and made.values("age")["ISIC_87"] == 37
    assert [made.values("sex")[f"ISIC_8{i}"] for i in range(3)] == ["M", "F", None]
    assert any("each image counts as a patient" in note for note in made.report["notes"])
    rows = [row for table in made.report["tables"] for row in table["rows"]]
    assert ["speck next to a larger part of its mask", 8] in rows
    data = json.loads((out / "annotations" / "train.json").read_text())
    mask = coco_mask.decode(data["annotations"][0]["segmentation"])
    assert mask.sum() == 30 * 20 - 1 and mask[8, 20] == 0  # the hole stays, the speck does not
    assert audit_folder(out).problems == []
    small = prepare("isic2017", root, tmp_path / "small", "--image-size", "32", "--components", "--specks", "0")
    assert small.images["ISIC_80"]["boxes"] == [("melanoma", [8, 4, 24, 16]), ("melanoma", [44, 28, 0.8, 0.8])]
    with Image.open(tmp_path / "small" / "images" / "ISIC_80.png") as image:
        assert image.mode == "RGB" and image.size == (48, 32)


def test_isic_keeps_the_parts(tmp_path):
    names, root = {"ISIC_8": "train", "ISIC_10": "val"}, write_isic(tmp_path / "raw", tuple(PARTS), 6)
    made = prepare("isic2017", root, tmp_path / "all", "--challenge-parts")
    assert all(image["split"] == names.get(key[:-1], "test") for key, image in made.images.items())
    made = prepare("isic2017", root, tmp_path / "all")
    assert not all(image["split"] == names.get(key[:-1], "test") for key, image in made.images.items())
    two = write_isic(tmp_path / "two", ("Training", "Test_v2"), 6)
    made = prepare("isic2017", two, tmp_path / "out", "--challenge-parts")
    assert {(key[:-1], image["split"]) for key, image in made.images.items()} == {
        ("ISIC_8", "train"), ("ISIC_8", "val"), ("ISIC_7", "test")}  # fmt: skip
    for wrong in ([write_isic(tmp_path / "one")], [two, "--folds", "3"]):
        with pytest.raises(SourceDataError, match="--challenge-parts needs the training part and another one"):
            prepare("isic2017", wrong[0], tmp_path / "out", "--challenge-parts", *wrong[1:])


def test_isic_soft_masks_and_masks_of_another_size(tmp_path):
    soft = np.clip(np.hypot(*np.mgrid[-20:20, -30:30]) * -20 + 300, 0, 255).astype(np.uint8)
    big = mask_of((20, 10, 60, 40), shape=(80, 120))
    root = write_isic(tmp_path / "raw", masks={"ISIC_80": big, "ISIC_81": soft})
    made = prepare("isic2017", root, tmp_path / "scaled")
    assert made.images["ISIC_80"]["boxes"] == [("melanoma", [10, 5, 30, 20])]
    ys, xs = np.nonzero(soft >= 127.5)
    assert made.images["ISIC_81"]["boxes"][0][1] == [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
    assert {
        "1 masks have another size than their image and are scaled to it.",
        "1 masks have more than two values: a finding is what reaches half of white.",
    } <= {*made.report["notes"]}
    root = write_isic(tmp_path / "tall", masks={"ISIC_80": mask_of((20, 8, 60, 40), shape=(160, 120))})
    with pytest.raises(SourceDataError, match="png: 120 × 160 pixels, its image has 60 × 40; .*--stretch-masks"):
        prepare("isic2017", root, tmp_path / "out")
    made = prepare("isic2017", root, tmp_path / "out", "--stretch-masks")
    assert made.images["ISIC_80"]["boxes"] == [("melanoma", [10, 2, 30, 10])]


def write_busbra(root, more=()):
    """Two images of each of six patients."""
    lines = ["ID,Case,Histology,Pathology,BIRADS,Device,Width,Height,Side,BBOX"]
    for i in range(12):
        key, name = f"{i // 2:04d}-{'lr'[i % 2]}", ("benign", "malignant")[i // 2 % 2]
        lines.append(f'bus_{key},{i // 2},cyst,{name},{2 + i // 4},GE Logiq 7 @10-14MHz,1,1,left,"[1,2,3,4]"')
        save(root / "Images" / f"bus_{key}.png", color(i)[:, :, 0])
        save(root / "Masks" / f"mask_{key}.png", mask_of((i, 5, 30, 20)))
    (root / "bus_data.csv").write_text("\n".join([*lines, *more]) + "\n")
    return root


def test_busbra(tmp_path):
    root = write_busbra(tmp_path / "raw")
    made = prepare("busbra", root, tmp_path / "busbra")
    assert made.images["bus_0001-r"]["boxes"] == [("malignant", [3, 5, 30, 20])]
    assert made.images["bus_0001-r"]["clinical"] == {"device": "GE Logiq 7", "side": "left"}
    for i in range(6):
        assert made.images[f"bus_000{i}-l"]["split"] == made.images[f"bus_000{i}-r"]["split"]
        assert made.images[f"bus_000{i}-l"]["patient_id"] == str(i)
    made = prepare("busbra", root, tmp_path / "busbra", "--with-birads")
    assert made.images["bus_0004-l"]["clinical"]["birads"] == "4"
    assert any("a reader's assessment of the same images" in note for note in made.report["notes"])
    assert "cyst" not in json.dumps(made.images) and audit_folder(tmp_path / "busbra").problems == []


BREAST = "BrEaST-Lesions_USG-images_and_masks"


def write_breast(root, more=(), excel=False):
    """Nine cases, the last two normal."""
    lines = ["CaseID,Image_filename,Mask_other_filename,Age,Tissue_composition,Signs,Symptoms,BIRADS,Diagnosis,"
             "Classification"]  # fmt: skip
    for i in range(9):
        name = "normal" if i > 6 else ("benign", "malignant")[i % 2]
        age, other = ("not available", 40 + i)[i > 0], f"case00{i}_other1.png" if i == 1 else ""
        signs = ("no", "palpable&Skin retraction", "not available")[i % 3]
        lines.append(f"{i},case00{i}.png,{other},{age},lactating&homogeneous: fat,{signs},HRT/hormonal use,5,no,{name}")
        save(root / BREAST / f"case00{i}.png", color(i)[:, :, 0])
        if name != "normal":
            save(root / BREAST / f"case00{i}_tumor.png", mask_of((i, 5, 30, 20)))
    save(root / BREAST / "case001_other1.png", mask_of((0, 0, 5, 5)))
    rows = [*lines, *more]
    name = root / "BrEaST-Lesions-USG-clinical-data-Dec-15-2023"
    if excel:
        cells = [row.split(",") for row in rows]
        pd.DataFrame(cells[1:], columns=cells[0]).to_excel(f"{name}.xlsx", index=False)
    else:
        name.with_suffix(".csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.mark.parametrize("excel", [False, True])
def test_breast(tmp_path, excel):
    made = prepare("breast", write_breast(tmp_path / "raw", excel=excel), tmp_path / "breast")
    assert made.images["case001"]["boxes"] == [("malignant", [1, 5, 30, 20])] and made.images["case008"]["boxes"] == []
    yes = {"tissue_lactating", "tissue_homogeneous_fat", "sign_palpable", "sign_skin_retraction",
           "symptom_hrt_hormonal_use"}  # fmt: skip
    assert made.images["case001"]["clinical"] == {"age": 41, **dict.fromkeys(yes, "yes")}
    none, unknown = made.images["case000"]["clinical"], made.images["case002"]["clinical"]
    assert none["sign_palpable"] == "no" and unknown["sign_palpable"] is None and none["age"] is None
    assert len({image["patient_id"] for image in made.images.values()}) == 9
    assert "2 normal cases are images without findings." in made.report["notes"]
    assert any(note.startswith("1 images have masks of something else") for note in made.report["notes"])
    assert audit_folder(tmp_path / "breast").problems == []


# --- bad input

WRITERS = {"isic2017": write_isic, "busbra": write_busbra, "breast": write_breast}
BAD_ROWS = [
    ("isic2017", "x1,0,0", "line 10: no image file x1; download it again"),
    ("isic2017", "x1,1,1", "line 10: x1: class '1, 1'; expected one row of each image, with melanoma, nevus"),
    ("isic2017", "x1,,0", "line 10: x1: class ', 0'; expected"),
    ("isic2017", "ISIC_80,0,0", "line 10: ISIC_80: class 'nevus'; expected one row of each image"),
    ("busbra", "x,9,x,unclear,2,d,1,1,left,", "line 14: x: class 'unclear'; expected one row of each image"),
    ("breast", "9,case009.png,,1,no,no,no,5,x,other", "line 11: case009: class 'other'; expected"),
]


@pytest.mark.parametrize(("name", "row", "message"), BAD_ROWS)
def test_a_bad_row_is_named_or_counted(name, row, message, tmp_path):
    root = WRITERS[name](tmp_path / "raw", more=[row])
    with pytest.raises(SourceDataError) as error:
        prepare(name, root, tmp_path / "out")
    assert message in str(error.value) and not (tmp_path / "out").exists()
    made = prepare(name, root, tmp_path / "out", "--on-error", "skip")
    assert made.flow["annotated images"]["in"] == made.flow["annotated images"]["kept"] + 1


DATA = "ISIC-2017_Training_Data"
BAD_MASKS = [
    (lambda p: p.unlink(), "image without a mask", "ISIC_81.jpg: it has no mask file; it may show a finding"),
    (lambda p: save(p, mask_of()), "mask without a pixel", "ISIC_81.jpg: its mask has no pixel of a finding"),
    (lambda p: p.write_text("no image"), "unusable mask", "cannot read image .*ISIC_81_segmentation.png"),
    (lambda p: save(p, color(1)), "unusable mask", "several channels"),
    (lambda p: save(p, np.diag([1, 2, 3]).astype(np.uint8)), "unusable mask", "4 values .0, 1, 2, 3 …., none from"),
    (lambda p: save(p.with_name("x_segmentation.png"), mask_of((0, 0, 9, 9))), "mask without an image",
     "x_segmentation.png: the table has no row of it"),
    (lambda p: save(p.parents[1] / DATA / "ISIC_9.jpg", color(1)), "image that no table lists", "ISIC_9.jpg: the"),
    (lambda p: (p.parents[1] / DATA / "ISIC_81.jpg").unlink(), "image file absent", "no image file ISIC_81"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "kind", "message"), BAD_MASKS)
def test_a_bad_mask_is_named_or_counted(change, kind, message, tmp_path):
    root = write_isic(tmp_path / "raw")
    change(root / "ISIC-2017_Training_Part1_GroundTruth" / "ISIC_81_segmentation.png")
    with pytest.raises(SourceDataError, match=message):
        prepare("isic2017", root, tmp_path / "out")
    made = prepare("isic2017", root, tmp_path / "out", "--on-error", "skip")
    assert made.report["problems"][kind]["count"] == 1
    assert ("ISIC_81" in made.images) == (kind in ("mask without an image", "image that no table lists"))


@pytest.mark.parametrize("name", WRITERS)
def test_absent_files_and_columns_are_named(name, tmp_path):
    root = WRITERS[name](tmp_path / "raw")
    next(root.glob("*.csv")).write_text("a,b\n1,2\n")
    (tmp_path / "empty").mkdir()
    for folder, text in (("nowhere", "no folder .*nowhere"), ("empty", "it comes from"), ("raw", "no column .*a, b$")):
        with pytest.raises(SourceDataError, match=text):
            prepare(name, tmp_path / folder, tmp_path / "out")


# --- your own masks


def write_own(root, count=12, **masks):
    """Images in a folder a class, a mask each, a table with a class; of image 3 two masks."""
    lines = ["file,who,age,diagnosis"]
    for i in range(count):
        name = ("benign", "malignant")[i % 2]
        save(root / "photos" / name / f"i{i}.png", color(i))
        mask = masks.get(f"i{i}", mask_of((i, 5, 20, 20), (50, 2, 9, 9)))
        save(root / "masks" / name / f"i{i}_mask.png", mask)
        lines.append(f"i{i},{i},{30 + i},{name.title()}")
    save(root / "masks" / "malignant" / "i3_mask_2.png", mask_of((1, 1, 4, 4)))
    (root / "table.csv").write_text("\n".join(lines) + "\n")
    return {"--images": root / "photos", "--masks": root / "masks", "--mask-name": "{stem}_mask*",
            "--table": root / "table.csv", "--key": "file", "--patient": "who"}  # fmt: skip


def own(given, out, *more):
    words = [str(word) for pair in given.items() for word in pair]
    main(["own", *words, "--out", str(out), "--num-workers", "1", *more])
    images, report = read_prepared(out)
    return {name: [(box["class"], box["bbox"]) for box in image["boxes"]] for name, image in images.items()}, report


def test_own_masks(tmp_path, capsys):
    given = write_own(tmp_path)
    boxes, _ = own(given, tmp_path / "out", "--class-column", "diagnosis", "--columns", "age")
    assert boxes["i0.png"] == [("Benign", [0, 2, 59, 23])]
    assert boxes["i3.png"] == [("Malignant", [3, 2, 56, 23]), ("Malignant", [1, 1, 4, 4])]
    assert "boxes (Benign 4, Malignant 5)" in capsys.readouterr().out
    boxes, _ = own(given, tmp_path / "out", "--components", "--columns", "age")  # a folder a class
    assert sorted(boxes["i0.png"]) == [("benign", [0, 5, 20, 20]), ("benign", [50, 2, 9, 9])]
    _, report = own(given, tmp_path / "out", "--class-column", "diagnosis")
    assert list(report["splits"]["train"]["missing"]) == ["age"]  # the class is no column of the record
    values = mask_of((1, 1, 5, 5)).astype(np.uint8) + 2 * mask_of((9, 9, 5, 5)).astype(np.uint8)
    given = write_own(tmp_path / "values", **{f"i{i}": values for i in range(12)})
    boxes, _ = own(given, tmp_path / "out", "--mask-values", "1=cyst", "2=mass", "--columns", "age")
    assert boxes["i0.png"] == [("cyst", [1, 1, 5, 5]), ("mass", [9, 9, 5, 5])]
    with pytest.raises(SourceDataError, match="i0_mask.png: value 2 is none of --mask-values"):
        own(given, tmp_path / "out", "--mask-values", "1=cyst", "--columns", "age")


def test_own_images_without_masks(tmp_path):
    given = write_own(tmp_path)
    (tmp_path / "masks" / "benign" / "i2_mask.png").unlink()
    save(tmp_path / "masks" / "benign" / "i4_mask.png", mask_of())
    save(tmp_path / "masks" / "j_mask.png", mask_of())
    with pytest.raises(SourceDataError, match="3 problems") as error:
        own(given, tmp_path / "out", "--columns", "age")
    for text in ("j_mask.png: no image of its name", "benign/i2.png: it has no mask file",
                 "i4.png: its mask has no pixel", "(--healthy-without-mask: such images show none)"):  # fmt: skip
        assert text in str(error.value)
    (tmp_path / "masks" / "j_mask.png").unlink()
    boxes, report = own(given, tmp_path / "out", "--columns", "age", "--healthy-without-mask")
    assert boxes["i2.png"] == boxes["i4.png"] == [] and "1 masks have no finding." in report["notes"]
    boxes, report = own(given, tmp_path / "out", "--columns", "age", "--on-error", "skip")
    assert set(report["problems"]) == {"image without a mask", "mask without a pixel"} and "i2.png" not in boxes
    for wrong, text in (
        (["--columns", "diagnosis", "--class-column", "diagnosis"], "--class-column says is the outcome"),
        (["--annotations", "x.json"], "by --annotations FILE or by --masks DIR"),
        (["--mask-values", "0=a"], "--mask-values '0': write VALUE=CLASS"),
        (["--class-column", "no"], "no column 'no' [(]--class-column[)]"),
    ):
        with pytest.raises(SourceDataError, match=text):
            own(given, tmp_path / "out", *wrong)
