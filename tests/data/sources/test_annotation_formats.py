"""Formats of labeling tools: examples written by hand after each tool's documentation, boxes computed by hand."""

from __future__ import annotations

import json
import math
from collections import Counter

import numpy as np
import pytest

from mdf_detectron.data.sources.kit.account import ProblemList
from mdf_detectron.data.sources.kit.annotation_formats import READERS, Builder, enclose
from mdf_detectron.data.sources.kit.studies import FRACTION
from mdf_detectron.data.sources.own.annotations import annotation_files, read_annotation_files
from mdf_detectron.data.sources.own.joining import find_files
from mdf_detectron.errors import SourceDataError
from mdf_detectron.fileio import read_xml


def read(folder, files, *given, skip=False, columns=None, units="pixels"):
    """Write files and read those that are given (default: the folder); return boxes by image, problems and account."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    problems = ProblemList(skip)
    found = read_annotation_files(annotation_files([folder / name for name in given] or [folder]),
                                  Builder(problems, columns=columns or {}), units)  # fmt: skip
    boxes = {image.name.rsplit("images/")[-1]: [(box["class"], [round(v, 6) for v in box["bbox"]])
                                                for box in image.boxes] for image in found.images}  # fmt: skip
    assert found.boxes_in == sum(map(len, boxes.values())) + sum(found.dropped.values())
    return boxes, [text for texts in problems.listed.values() for text in texts], found


def test_yolo(tmp_path):
    labels = {"labels/train/a.txt": "0 0.5 0.5 0.25 0.5\n1 0.1 0.2 0.5 0.2 0.5 0.6 0.1 0.6\n", "labels/val/b.txt": "",
              "labels/train/c.txt": "7 .5 .5 .1 .1\n0 .5 .5 .1 .1 .9\n0 48 40 10 10\nabc\n1 .5 .5 .2 .2\n"}  # fmt: skip
    names = {"data.yaml": "train: images/train\nnc: 2\nnames: [nodule, mass]\n", "train.txt": "images/train/a.png\n",
             "README.dataset.txt": "provided by a user"}  # fmt: skip
    boxes, problems, found = read(tmp_path, {**labels, **names})
    assert boxes == {"train/a": [("nodule", [0.375, 0.25, 0.25, 0.5]), ("mass", [0.1, 0.2, 0.4, 0.4])], "val/b": [],
                     "train/c": [("mass", [0.4, 0.4, 0.2, 0.2])]}  # fmt: skip
    assert found.images[0].size == FRACTION and found.images[1].unusable == 4
    assert [text.partition(":")[0] for text in problems] == [
        *(f"labels/train/c.txt line {n}" for n in (1, 2, 4)),
        "labels/train/c.txt",
    ]
    assert (
        "class ['7'] with a box" in problems[0]
        and "expected four numbers" in problems[1]
        and "is in pixels" in problems[3]
    )
    # the data.yaml alone names the folder, a classes.txt is found above the labels, and with neither nothing is guessed
    assert read(tmp_path, {}, "data.yaml")[0] == boxes
    (tmp_path / "data.yaml").unlink()
    with pytest.raises(SourceDataError, match="a.txt: which class is 0"):
        read(tmp_path, {}, "labels/train")
    assert read(tmp_path, {"classes.txt": "cyst\nscar"}, "labels/train/a.txt")[0]["train/a"][0][0] == "cyst"
    for content in ("names: 3", "names: [a]\nkpt_shape: [17, 3]"):  # no classes, labels of poses
        with pytest.raises(SourceDataError, match="other.yaml: no 'names'"):
            read(tmp_path, {"other.yaml": content}, "labels/val", "other.yaml")


@pytest.mark.parametrize("given", [["set.yaml"], [""], ["labels"], ["labels/val/a/0047"], ["labels/val", "set.yaml"]])
def test_yolo_finds_its_classes_at_any_depth(given, tmp_path):
    files = {f"p/labels/{split}/a/0047/x.txt": "1 .5 .5 .2 .4\n" for split in ("train", "val")}
    files |= {"p/data.yaml": "names: [scar, cyst]", "p/classes.txt": "a\nb", "data.yaml": "names: [wrong, other]"}
    if "set.yaml" in given:  # a list that is named comes before another one of its folder
        files |= {"p/set.yaml": files.pop("p/data.yaml"), "p/data.yaml": "names: [c, d]"}
    boxes, *_ = read(tmp_path, files, *(f"p/{name}" for name in given))
    splits = ["val"] if given[0].startswith("labels/val") else ["train", "val"]
    assert boxes == {f"{split}/a/0047/x": [("cyst", [0.4, 0.3, 0.2, 0.4])] for split in splits}


VOC = """<?xml version="1.0" encoding="utf-8"?><annotation><folder>scans</folder><filename>{0}.png</filename>
<size><width>96</width><height>{1}</height><depth>1</depth></size><object><name>mass</name><difficult>0</difficult>
<bndbox><xmin>{2}</xmin><ymin>11</ymin><xmax>96</xmax><ymax>30</ymax></bndbox></object></annotation>"""


def test_pascal_voc_counts_pixels_from_1_unless_a_file_contradicts(tmp_path):
    boxes, _, found = read(tmp_path, {"a.xml": VOC.format("a", 80, 1), "b.xml": VOC.format("b", 0, 5)})
    assert boxes == {"a.png": [("mass", [0, 10, 96, 20])], "b.png": [("mass", [4, 10, 92, 20])]}
    assert [image.size for image in found.images] == [(96, 80), None]  # LabelImg writes 0 if it does not know
    for first in ("0", "1.0"):  # of a tool that counts from 0
        boxes, *_ = read(tmp_path, {"c.xml": VOC.format("c", 80, first)})
        assert boxes["a.png"] == [("mass", [1, 11, 95, 19])]
    for first in ("-3", "0</xmin><xmax>0</xmax><xmin>0"):  # out of the image, or without area: no evidence
        boxes, *_ = read(tmp_path, {"c.xml": VOC.format("c", 80, first)}, skip=True)
        assert boxes["a.png"] == [("mass", [0, 10, 96, 20])]
    boxes, problems, found = read(tmp_path, {"c.xml": VOC.format("c", 80, 97).replace("<object>", "<object/><object>")})
    assert boxes["a.png"] == [("mass", [0, 10, 96, 20])] and "expected four numbers" in problems.pop(0)
    assert boxes["c.png"] == [] and "c.xml: image c.png: box 2: bbox" in problems[0] and found.images[2].unusable == 2


CVAT = """<annotations><version>1.1</version><image id="3" name="sub/a.png" width="96" height="80">
<box label="mass" xtl="20" ytl="30" xbr="60" ybr="38" rotation="90.0" occluded="0" z_order="0"/>
<box label="Mass" xtl="1.5" ytl="2" xbr="11.5" ybr="4"><attribute name="side">left</attribute></box>
<ellipse label="nodule" cx="50" cy="40" rx="10" ry="5" rotation="90"/>
<polygon label="nodule" points="10,10;30,10;30,25"/>
<mask label="mass" rle="1, 2" left="3" top="4" width="5" height="6"/>
<polyline label="mass" points="1,1;2,2"/><tag label="poor"/></image><image id="4" name="b.png"/></annotations>"""


def test_cvat(tmp_path):
    boxes, problems, found = read(tmp_path, {"a.xml": CVAT})
    assert boxes == {"sub/a.png": [("mass", [36, 14, 8, 40]), ("mass", [1.5, 2, 10, 2]), ("nodule", [45, 30, 10, 20]),
                                   ("nodule", [10, 10, 20, 15]), ("mass", [3, 4, 5, 6])], "b.png": []}  # fmt: skip
    assert found.images[0].boxes[3]["segmentation"] == [[10, 10, 30, 10, 30, 25]]
    assert [image.image_id for image in found.images] == ["3", "4"] and found.images[1].size is None
    assert problems == ["a.xml: image sub/a.png: box 6: polyline is no box and no polygon"]
    assert found.notes == ["2 turned boxes became the boxes that enclose them.",
                           "1 masks became the boxes that enclose them."]  # fmt: skip
    with pytest.raises(SourceDataError, match="CVAT for video; export the task as 'CVAT for images"):
        read(tmp_path, {"a.xml": "<annotations><track id='0'/></annotations>"})


def region(labels, *, size=(1000, 500), key="rectanglelabels", **value):
    return {"id": f"{value}", "type": key, "original_width": size[0], "original_height": size[1], "image_rotation": 0,
            "value": {**value, key: labels}}  # fmt: skip


def test_label_studio(tmp_path):
    turned = region(["mass", "cyst"], x=20, y=20, width=30, height=20, rotation=90)  # about its corner at (200, 100)
    pair = [
        {**region([], x=10, y=20, width=30, height=40), "id": "p"},
        {"id": "p", "value": {"x": 10, "labels": ["scar"]}},
    ]
    del pair[0]["value"]["rectanglelabels"]
    other = [region(["cyst"], key="ellipselabels", x=50, y=50, radiusX=10, radiusY=10, rotation=0),
             region(["cyst"], key="polygonlabels", points=[[10, 10], [20, 10], [20, 30]]),
             {"value": {"choices": ["poor"]}},
             {**region(["cyst"], key="polygonlabels", points=[[1, 10], [20, 10], [20, 30]]), "image_rotation": 90},
             region(["cyst"], key="brushlabels", format="rle", rle=[1, 2])]  # fmt: skip
    tasks = [{"id": 1, "data": {"note": "x", "image": "/data/upload/2/a%20b.png"},
              "annotations": [{"result": [turned, *pair]}, {"was_cancelled": True, "result": other}],
              "predictions": [{"result": other}]},
             {"id": 2, "data": {"image": "/data/local-files/?d=scans/c.png"}, "annotations": [{"result": other}]},
             {"id": 3, "data": {"image": "s3://bucket/d.png?key=1"}, "annotations": []},
             {"id": 4, "data": {"image": "e.png"}, "annotations": [{"result": []}]},
             {"id": 5, "data": {"image": "f.png"}, "annotations": [{"result": [
                 region(["scar"], size=(None, None), x=10, y=20, width=30, height=40),
                 region(["scar"], size=(None, None), x=10, y=20, width=30, height=40, rotation=5)]}]}]  # fmt: skip
    boxes, problems, found = read(tmp_path, {"a.json": tasks})
    assert boxes == {
        "/data/upload/2/a b.png": [("mass", [100, 100, 100, 300]), ("cyst", [100, 100, 100, 300]),
                                   ("scar", [100, 100, 300, 200])],
        "scans/c.png": [("cyst", [400, 200, 200, 100]), ("cyst", [100, 50, 100, 100])], "e.png": [],
        "f.png": [("scar", [0.1, 0.2, 0.3, 0.4])]}  # fmt: skip
    assert found.images[3].size == FRACTION and found.images[0].size == (1000, 500)
    assert len(problems) == 3 and "brush mask" in problems[1] and all("turned" in text for text in problems)
    assert "a.json: 1 tasks are not annotated, or were skipped: left out." in found.notes
    short = [{"image": "/data/upload/a.png", "id": 1, "annotation_id": 5, "label": [
        {"x": 10, "y": 20, "width": 30, "height": 40, "rotation": 0, "rectanglelabels": ["mass"], "original_width": 96,
         "original_height": 80}]}, {"image": "b.png", "id": 2, "annotation_id": 6}]  # fmt: skip
    boxes, *_ = read(tmp_path, {"a.json": short})
    assert boxes == {"/data/upload/a.png": [("mass", [9.6, 16, 28.8, 32])], "b.png": []}


@pytest.mark.parametrize("data, to_name, expected", [
    ({"image": "1.2.840.7"}, "i", "1.2.840.7"), ({"note": "a w/o b", "scan": "1.2.840.8"}, "scan", "1.2.840.8"),
    ({"note": "dense", "scan": "/data/local-files/?d=dicom/1.2.840.9"}, "i", "dicom/1.2.840.9"),
    ({"scan": "1.2.840.3", "age": 40}, "i", "1.2.840.3"), ({"image": "1.2.840.4", "thumb": "b.png"}, "i", "b.png"),
    ({"note": "dense", "scan": "1.2.840.5"}, "i", None), ({"image": "", "note": " "}, "i", None)])  # fmt: skip
def test_label_studio_names_images_without_a_suffix(data, to_name, expected, tmp_path):
    drawn = {**region(["mass"], x=10, y=20, width=30, height=40), "to_name": to_name}
    tasks = [{"id": 71, "data": {"image": "0.png"}, "annotations": [{"result": []}]},
             {"data": data, "annotations": [{"result": [drawn]}]}]  # fmt: skip
    if expected:
        assert read(tmp_path, {"a.json": tasks})[0] == {"0.png": [], expected: [("mass", [100, 100, 300, 200])]}
        return
    for key, shown in ({}, "number 2"), ({"id": 72}, "72"):
        tasks[1] |= key
        with pytest.raises(SourceDataError, match=rf"a.json: .*no image is named by task {shown}\)"):
            read(tmp_path, {"a.json": tasks})


def test_boxes_without_a_class_have_one_name_or_are_problems(tmp_path):
    graded = region(["scar"], key="choices", x=10, y=20, width=30, height=40)
    bare = [region([], x=0, y=0, width=10, height=10), region(None, key="number", x=0, y=0, width=20, height=10)]
    for results, expected in ((bare, ["finding", "finding"]), ([*bare, graded], ["scar"])):
        tasks = [{"id": 1, "data": {"image": "a.png"}, "annotations": [{"result": results}]}]
        boxes, problems, found = read(tmp_path, {"a.json": tasks})
        assert [name for name, _ in boxes["a.png"]] == expected == found.class_names * len(expected)
        assert len(problems) == found.images[0].unusable == len(results) - len(expected)
        assert all(f"box {n}: no class, and other boxes have one" in text for n, text in enumerate(problems, 1))


@pytest.mark.parametrize("suffix", [".json", ".xml"])
@pytest.mark.parametrize(("labels", "written", "given", "expected"), [
    (["scans/a/1", "scans/b/1"], "1.png", ["scans"], ["a/1", "b/1"]),
    (["scans/a/1", "scans/b/1"], "1.png", None, ["a/1", "b/1"]),  # named one by one
    (["labels/a/1", "labels/b/1"], "1.png", ["labels"], ["a/1", "b/1"]),
    (["labels/1"], "..\\scans\\b\\1.png", ["labels"], ["b/1"]),
    (["scans/c/1", "scans/a/1"], "1.png", ["scans"], ["a/1"]),  # another folder's image is not that of c/1
    (["scans/c/1"], "1.png", ["scans"], []),
    (["labels/2"], "2.png", ["labels"], ["b/2"]),
])  # fmt: skip
def test_a_name_is_relative_to_its_own_file_first(labels, written, given, expected, suffix, tmp_path):
    files = [tmp_path / "scans" / f"{name}.png" for name in ("a/1", "b/1", "b/2")]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    content = VOC.replace("{0}.png", written).format("", 80, 1)
    if suffix == ".json":
        content = {
            "imagePath": written,
            "shapes": [{"label": "mass", "points": [[1, 2], [9, 8]], "shape_type": "rectangle"}],
        }
    contents = {name + suffix: content for name in labels}
    *_, found = read(tmp_path, contents, *(given or contents))
    problems = ProblemList()
    studies = find_files(found.images, files, tmp_path / "scans", problems, Counter())
    own = [study.path.relative_to(tmp_path / "scans").with_suffix("").as_posix() for study in studies]
    assert own == expected
    assert sum(problems.counts.values()) == len(found.images) - len(expected)


@pytest.mark.parametrize(("folder", "expected"), [
    ("b", "b/1"), ("scans\\b\\", "b/1"), ("x/b", "x/b/1"), ("old", None), ("", None)])  # fmt: skip
def test_voc_names_the_folder_of_several_files_of_a_name(folder, expected, tmp_path):
    files = [tmp_path / "scans" / f"{name}.png" for name in ("a/1", "b/1", "2")]
    files += [tmp_path / "scans/x/b/1.png"] * (folder == "x/b")
    content = VOC.replace("{0}.png", "1.png").replace("scans", folder).format("", 80, 1)
    contents = {"set/p.xml": content, "set/own/2.xml": VOC.format("2", 80, 1)}
    _, _, found = read(tmp_path, contents, "set")
    problems = ProblemList()
    studies = find_files(found.images, files, tmp_path / "scans", problems, Counter())
    own = {s.image.where: s.path.relative_to(tmp_path / "scans").with_suffix("").as_posix() for s in studies}
    assert own == {"own/2.xml: image own/2.png": "2"} | ({"p.xml: image 1.png": expected} if expected else {})
    listed = problems.listed.get("several files of that name", [])
    assert len(listed) == (not expected) and all("p.xml: image 1.png: several files may be" in one for one in listed)


def test_labelme(tmp_path):
    shapes = [("rectangle", [[60, 40], [20, 10]]), ("circle", [[50, 40], [53, 44]]), ("point", [[1, 2]]),
              ("polygon", [[10, 10], [30, 10], [30, 25]]), ("rectangle", [[1, 1], [9, 1], [9, 4], [1, 4]]),
              ("mask", [[3, 4], [7, 9]])]  # fmt: skip
    shapes = [{"label": "mass", "points": points, "group_id": None, "shape_type": kind} for kind, points in shapes]
    data = {"version": "5.2.1", "flags": {}, "shapes": shapes, "imagePath": "..\\scans\\a.png", "imageData": None,
            "imageHeight": 80, "imageWidth": 96}  # fmt: skip
    boxes, problems, found = read(tmp_path, {"a.json": data, "b.json": {"shapes": [], "imagePath": "b.png"}})
    assert boxes == {"a.png": [("mass", box) for box in ([20, 10, 40, 30], [45, 35, 10, 10], [10, 10, 20, 15],
                                                         [1, 1, 8, 3], [3, 4, 5, 6])], "b.png": []}  # fmt: skip
    assert found.images[0].boxes[2]["segmentation"] and found.images[0].size == (96, 80)
    assert found.notes == ["1 masks became the boxes that enclose them."]
    assert problems == ["a.json: image a.png: box 3: point is no box and no polygon"]


def test_via(tmp_path):
    drawn = [{"name": "rect", "x": 5, "y": 6, "width": 7, "height": 8}, {"name": "circle", "cx": 50, "cy": 40, "r": 5},
             {"name": "ellipse", "cx": 50, "cy": 40, "rx": 10, "ry": 5, "theta": math.pi / 2},
             {"name": "polygon", "all_points_x": [10, 30, 30], "all_points_y": [10, 10, 25]},
             {"name": "polyline", "all_points_x": [1, 2], "all_points_y": [1, 2]}]  # fmt: skip
    regions = [{"shape_attributes": one, "region_attributes": {"finding": "mass", "side": "left"}} for one in drawn]
    regions[1]["region_attributes"] = {"kind": {"mass": True, "cyst": True, "scar": False}}
    entries = {"a.png123": {"filename": "a.png", "size": 123, "regions": regions, "file_attributes": {}},
               "b.png9": {"filename": "b.png", "regions": {"0": {"shape_attributes": drawn[0]}}}}  # fmt: skip
    boxes, problems, found = read(tmp_path, {"a.json": {"_via_settings": {}, "_via_img_metadata": entries}})
    assert boxes == {"a.png": [("mass", [5, 6, 7, 8]), ("mass", [45, 35, 10, 10]), ("cyst", [45, 35, 10, 10]),
                               ("mass", [45, 30, 10, 20]), ("mass", [10, 10, 20, 15])],
                     "b.png": []}  # fmt: skip
    assert len(problems) == 2 and "polyline is no box" in problems[0] and "b.png: box 1: no class" in problems[1]
    assert found.images[0].size is None
    named = [{"shape_attributes": drawn[0], "region_attributes": {"type": "scar", "difficult": False}}]
    boxes, *_ = read(tmp_path, {"a.json": {"k": {"filename": "a.png", "regions": named}}})
    assert boxes == {"a.png": [("scar", [5, 6, 7, 8])]}
    regions[0]["region_attributes"] = {"what": "scar", "where": "left"}
    with pytest.raises(SourceDataError, match="a.json: which of the attributes what, where is the class"):
        read(tmp_path, {"a.json": entries})
    assert read(tmp_path, {}, columns={"class": "what"})[0]["a.png"][0][0] == "scar"


@pytest.mark.parametrize("kind", ["box", "pinned box", "ellipse"])
def test_a_turned_shape_is_enclosed(kind):
    rng = np.random.default_rng(3)
    for _ in range(20):
        (x, y, w, h), angle = rng.uniform(5, 50, 4), rng.uniform(-360, 360)
        along = np.linspace(0, 1, 20_001)
        if kind == "ellipse":  # many points of its outline, turned one by one
            outline = np.stack([x + w * np.cos(2 * np.pi * along), y + h * np.sin(2 * np.pi * along)])
            pivot = np.array([x, y])
        else:
            outline = np.stack([x + w * np.array([0, 1, 1, 0]), y + h * np.array([0, 0, 1, 1])])
            pivot = np.array([x, y]) if kind == "pinned box" else np.array([x + w / 2, y + h / 2])
        complex_points = (outline[0] - pivot[0] + 1j * (outline[1] - pivot[1])) * np.exp(1j * np.radians(angle))
        xs, ys = complex_points.real + pivot[0], complex_points.imag + pivot[1]
        expected = [xs.min(), ys.min(), np.ptp(xs), np.ptp(ys)]
        assert enclose(kind, (x, y, w, h), angle)[0] == pytest.approx(expected, abs=1e-4)


def test_the_format_is_chosen_by_content_and_must_be_one(tmp_path):
    assert [reader.name for reader in READERS] == ["YOLO", "Pascal VOC", "CVAT", "Label Studio", "Labelme", "VIA"]
    with pytest.raises(SourceDataError, match="b.xml is Pascal VOC, the files before it are CVAT"):
        read(tmp_path, {"a.xml": CVAT, "b.xml": VOC.format("b", 80, 1)})
    for content in ([{"image_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}], {"a": 1}, 3):
        with pytest.raises(SourceDataError, match="c.json: none of the formats that are read, YOLO, .*, COCO, a table"):
            read(tmp_path, {"c.json": content}, "c.json")
    with pytest.raises(SourceDataError, match="boxes.docx: none of the formats that are read"):
        read(tmp_path, {"boxes.docx": "x"}, "boxes.docx")
    for name, content in {"d.xml": "<annotations><image/></annotations>", "d.json": {"shapes": 3},
                          "e.json": {"a": {"regions": [3]}}, "f.json": [{"data": {}, "annotations": [{}]}],
                          }.items():  # fmt: skip
        with pytest.raises(SourceDataError, match=rf"{name}: not as (CVAT|Labelme|VIA|Label Studio) writes it \("):
            read(tmp_path, {name: content}, name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceDataError, match="empty: no annotation file below it"):
        read(tmp_path, {}, "empty")
    with pytest.raises(SourceDataError, match="g.xml: 1 images and no box in it; was it exported before"):
        read(tmp_path, {"g.xml": "<annotations><image name='a.png'/></annotations>"}, "g.xml")


def test_xml_with_entities_is_refused_and_any_encoding_is_read(tmp_path):
    laughs = "".join(f"<!ENTITY l{i} '{f'&l{i - 1};' * 10}'>" for i in range(1, 10))
    for prolog in (f"<!DOCTYPE a [<!ENTITY l0 'ha'>{laughs}]>", "<!DOCTYPE a SYSTEM 'file:///etc/passwd'>"):
        (tmp_path / "a.xml").write_text(f"{prolog}<annotation>&l9;</annotation>")
        with pytest.raises(SourceDataError, match="a.xml: not readable as XML .it declares a document type"):
            read_xml(tmp_path / "a.xml", SourceDataError)
    for encoding in ("utf-8", "iso-8859-1", "utf-16"):
        (tmp_path / "a.xml").write_text(f"<?xml version='1.0' encoding='{encoding}'?><a b='ä'>ö</a>", encoding)
        root = read_xml(tmp_path / "a.xml", SourceDataError)
        assert (root.get("b"), root.text) == ("ä", "ö")
    for content in ("", "<a><b></a>", "<?xml version='1.0' encoding='no'?><a/>"):
        (tmp_path / "a.xml").write_text(content)
        with pytest.raises(SourceDataError, match="a.xml: not readable as XML"):
            read_xml(tmp_path / "a.xml", SourceDataError)
