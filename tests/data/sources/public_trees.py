"""Small invented trees of the public collections, with their dirt, and what was prepared of them read back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from dicom_files import radiograph, save
from PIL import Image

from mdf_detectron.cli.prepare import main
from tests.data.sources.mimic.golden import CASES, HEIGHT, WIDTH, Tree, dicom
from tests.data.sources.reading_back import read_prepared

MAPPING = "pneumonia-challenge-dataset-mappings_2018.json"
RSNA_ROWS = [
    "a0,,,,,0", "a1,256.0,512.0,128.0,256.0,1", "a1,640.0,512.0,128.0,256.0,1", "a2,,,,,0",
    "a3,100.0,100.0,200.0,300.0,1", "a3,100.0,100.0,200.0,300.0,1", "a4,,,,,0", "a5,,,,,0",
]  # fmt: skip
NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
NIH_ROWS = [
    ("00000001_000.png", "Infiltration|Mass", 1, "58", "M", "PA"),
    ("00000001_001.png", "No Finding", 1, "414", "M", "PA"),
    ("00000002_000.png", "No Finding", 2, "058Y", "F", "AP"),
    ("00000003_000.png", "Hernia", 3, "40", "F", "AP"),
    ("00000004_000.png", "Nodule", 4, "33", "M", "PA"),
    ("00000005_000.png", "No Finding", 5, "20", "F", "PA"),
    ("00000006_000.png", "Effusion", 6, "21", "F", "PA"),
]
NIH_BOXES = [
    "00000001_000.png,Infiltrate,256.0,512.0,128.0,256.0",
    "00000004_000.png,Nodule,100.5,200.25,64.0,32.0",
    "00000004_000.png,Nodule,100.5,200.25,64.0,32.0",
]
VINDR_ROWS = [
    "v0,No finding,14,R1,,,,", "v0,No finding,14,R2,,,,", "v0,No finding,14,R3,,,,",
    "v1,Cardiomegaly,3,R1,10.0,20.0,50.0,40.0", "v1,Cardiomegaly,3,R2,12.0,20.0,52.0,40.0",
    "v1,ILD,5,R3,10.0,20.0,50.0,40.0",
    "v2,ILD,5,R1,5,5,20,20", "v2,No finding,14,R2,,,,", "v2,No finding,14,R3,,,,",
    "v3,No finding,14,R1,,,,", "v3,No finding,14,R2,,,,", "v3,No finding,14,R3,,,,",
]  # fmt: skip
LONG_ID = "216840111366964012768025509942010209105651645_00-009-168.png"
PADCHEST_ROWS = [
    f"s0,{LONG_ID},nodule,train,100,M,71", f"s0,{LONG_ID},mass,train,100,M,71", "s1,i1.png,,validation,101,F,64",
    "s2,i2.png,,train,102,F,60", "s3,i3.png,,test,103.0,F,-3", "s4,i4.png,,train,104,F,",
]  # fmt: skip


def write_rsna(root: Path, more=(), rows=RSNA_ROWS, patients=(1, 1, 2, 3, 4, 5), mapping=True) -> Path:
    """Six images of 64×64 that stand for 1024×1024, of five patients."""
    (root / "stage_2_train_images").mkdir(parents=True)
    pixels = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) // 16
    for number, age in enumerate(("62", "148", "062Y", "", "45", "7")):
        tags = {"PatientID": f"a{number}", "PatientSex": "FM"[number % 2], "ViewPosition": ("PA", "AP")[number % 2]}
        image = radiograph(np.roll(pixels, 5 * number), PatientAge=age, **tags)
        save(image, root / "stage_2_train_images" / f"a{number}.dcm")
    header = "patientId,x,y,width,height,Target"
    (root / "stage_2_train_labels.csv").write_text("\n".join([header, *rows, *more]) + "\n")
    if mapping:
        entries = [{"subset_img_id": f"a{i}", "img_id": f"{p:08d}_{i:03d}.png"} for i, p in enumerate(patients)]
        (root / MAPPING).write_text(json.dumps(entries))
    return root


def write_nih(root: Path, more=(), rows=NIH_ROWS, v1=False, kaggle=False) -> Path:
    """Images of 64×64 that stand for 1024×1024; of v1, with its trailing commas; or in Kaggle's folders."""
    root.mkdir(parents=True)
    end = "," if v1 else ""
    lines = [
        f"{n},{labels},0,{p},{age},{sex},{view},2500,2048,0.168,0.168{end}" for n, labels, p, age, sex, view in rows
    ]
    name = "Data_Entry_2017.csv" if v1 else "Data_Entry_2017_v2020.csv"
    (root / name).write_text("\n".join([NIH_HEADER + end, *lines]) + "\n")
    header, newline = ("Image Index,Finding Label,Bbox [x,y,w,h]", "\r\n") if kaggle else (
        "Image Index,Finding Label,Bbox [x,y,w,h],,,", "\n")  # fmt: skip
    (root / "BBox_List_2017.csv").write_bytes(newline.join([header, *NIH_BOXES, *more, ""]).encode())
    for number, row in enumerate(rows):
        folder = root / (f"images_{1 + number % 2:03d}/images" if kaggle else "images")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.full((64, 64), 100 + number, np.uint8)
        Image.fromarray(pixels).convert("RGBA" if number == 1 else "L").save(folder / row[0])
    return root


def _vindr_images(folder: Path, names) -> None:
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        pixels = np.arange(80 * 64, dtype=np.uint16).reshape(80, 64) // 2 + 9 * number * np.eye(80, 64, dtype=np.uint16)
        age, sex = ("052Y", "000Y", "", "238Y")[number % 4], "MFOM"[number % 4]
        image = radiograph(pixels, PatientAge=age, PatientSex=sex, PhotometricInterpretation="MONOCHROME1")
        save(image, folder / f"{name}.dicom")


def write_vindr(root: Path, more=()) -> Path:
    """Kaggle's layout: four images, three readers each."""
    _vindr_images(root / "train", ("v0", "v1", "v2", "v3"))
    header = "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max"
    (root / "train.csv").write_text("\n".join([header, *VINDR_ROWS, *more]) + "\n")
    return root


def write_vindr_physionet(root: Path) -> Path:
    """Training images p0 to p3, of which p2 has a global finding only, and the test images q0, q1."""
    _vindr_images(root / "train", ("p0", "p1", "p2", "p3"))
    _vindr_images(root / "test", ("q0", "q1"))
    (root / "annotations").mkdir()
    files = {
        "annotations_train.csv": "image_id,rad_id,class_name,x_min,y_min,x_max,y_max\np0,R1,No finding,,,,\n"
                                 "p1,R1,Nodule/Mass,10,20,50,40\np1,R2,Nodule/Mass,10,20,50,40\n",
        "image_labels_train.csv": "image_id,rad_id,Nodule/Mass,Pneumonia,No finding\n"
        + "".join(f"p{i},R{r},{int(i == 1)},{int(i == 2)},{int(i in (0, 3))}\n" for i in range(4) for r in range(3)),
        "annotations_test.csv": "image_id,class_name,x_min,y_min,x_max,y_max\nq0,Nodule/Mass,1,2,30,40\n",
        "image_labels_test.csv": "image_id,Nodule/Mass,Other disease,No finding\nq0,1,0,0.0\nq1,0,0,1.0\n",
    }  # fmt: skip
    for name, text in files.items():
        (root / "annotations" / name).write_text(text)
    return root


def finding(*boxes, labels=("Nodule",), extra=()) -> dict[str, Any]:
    return {"abnormal": True, "boxes": list(boxes), "extra_boxes": list(extra), "labels": list(labels)}


def write_padchest(root: Path, more=(), findings=None) -> Path:
    """Five studies; with ``more`` rows of the master table or ``findings`` a sixth, i5.png."""
    lists = {
        LONG_ID: [finding([0.25, 0.5, 0.5, 0.75], labels=("Nodule", "mass")), {"abnormal": False}],
        "i1.png": [{"abnormal": False}], "i2.png": [finding(labels=("Scoliosis",))],
        "i3.png": [finding([0, 0, 0.5, 0.5], extra=[[0.5, 0.5, 1, 1]])], "i4.png": [],
    }  # fmt: skip
    if more or findings:
        lists["i5.png"] = findings or []
        more = more or ["s5,i5.png,,train,105,F,60"]
    folder = root / "Padchest_GR_files" / "PadChest_GR"
    folder.mkdir(parents=True)
    for number, name in enumerate(lists):
        Image.fromarray(np.roll(np.arange(40 * 80, dtype=np.uint16), 5 * number).reshape(40, 80)).save(folder / name)
    entries = [{"ImageID": name, "findings": found} for name, found in lists.items()]
    (root / "grounded_reports_20240819.json").write_text(json.dumps(entries))
    header = "StudyID,ImageID,label,split,PatientID,PatientSex_DICOM,PatientAge"
    (root / "master_table.csv").write_text("\n".join([header, *PADCHEST_ROWS, *more]) + "\n")
    return root


def write_ms_cxr(root: Path, more=()) -> Path:
    """A box on each image of MIMIC's hand-written tree, and a second one on the first."""
    Tree().write_physionet(root)
    for folder in (root / "reflacx-xray-localization").rglob("*.csv"):
        folder.unlink()  # MS-CXR needs none of it
    size = f"{WIDTH},{HEIGHT},test"
    rows = [f'{dicom(i)},Pneumonia,"lower, left",p,{10 + i},20,100,50,{size}' for i in range(len(CASES))]
    rows += [f"{dicom(0)},Edema,both,p,1,2,30.5,40,{size}", f"{dicom(0)},Pneumonia,again,p,10,20,100,50,{size}", *more]
    header = "dicom_id,category_name,label_text,path,x,y,w,h,image_width,image_height,split"
    folder = root / "ms-cxr" / "1.1.0"
    folder.mkdir(parents=True)
    (folder / "MS_CXR_Local_Alignment_v1.1.0.csv").write_text("\n".join([header, *rows]) + "\n")
    return root


COVID_BOXES = "annotations/imageannotation_ai_lung_bounding_boxes.json"
COVID_HEADER = (
    "patientid,offset,sex,age,temperature,pO2_saturation,leukocyte_count,neutrophil_count,lymphocyte_count,"
    "view,modality,filename"
)
COVID_ROWS = [
    *(f"{i},3,{'FM'[i % 2]},{30 + i},36.6,97,,,,PA,X-ray,f{i}.png" for i in range(6)),
    "0,,,,,,,,,AP,X-ray,f6.png",  # second image of patient 0, all values missing
    "7,1,X,300,98.6,120,1,1,1,PA,X-ray,dirty.png",  # sex, age, °F temperature and saturation out of range
    *(f'{i},0,F,50,"38,1",95,,,,PA,X-ray,{name}.png'
      for i, name in enumerate(("comma", "absent", "null", "shape", "no_height", "no_width"), start=9)),
    "8,0,F,50,37,95,,,,Axial,CT,ct.png", " ,0,F,50,37,95,,,,PA,X-ray,nobody.png",
    "3,3,M,99,36.6,97,,,,PA,X-ray,f3.png",  # a second row
]  # fmt: skip


def write_covid(root: Path, change=lambda coco: None) -> Path:
    """Nine usable images of 80×100, and nine entries that are not; ``change`` edits the COCO file."""
    for folder in ("images", "annotations"):
        (root / folder).mkdir(parents=True)
    (root / "metadata.csv").write_text("\n".join([COVID_HEADER, *COVID_ROWS]) + "\n")
    gray, modes = np.arange(100 * 80, dtype=np.uint32).reshape(100, 80).astype(np.uint8), {"f0": "RGB", "f1": "RGBA"}
    names = [row.rsplit(",", 1)[1] for row in COVID_ROWS[:-1]]
    for number, name in enumerate(names):
        if name != "absent.png":
            Image.fromarray(np.roll(gray, number)).convert(modes.get(name[:2], "L")).save(root / "images" / name)
    images = [{"id": i, "file_name": n, "width": 80, "height": 100}
              for i, n in enumerate([*names, "no_row.png", "f0.png"])]  # fmt: skip
    of = {image["file_name"]: image for image in reversed(images)}
    of["f3.png"].update(width=160, height=200)  # boxes in the pixels of a copy twice as large
    of["shape.png"].update(width=100, height=80)
    of["no_width.png"]["width"] = 0
    annotations = []
    for image in images:
        scale = image["width"] / 80
        for category, x in ((1, 5), (2, 45)):
            box = [x * scale, 10 * scale, 30 * scale, 60 * scale] if image is not of["null.png"] else [None] * 4
            annotations.append({"id": len(annotations), "image_id": image["id"], "category_id": category, "bbox": box})
    del of["no_height.png"]["height"]
    annotations[0]["bbox"] = [-10, 10, 40, 200]  # leaves the image on two sides
    annotations += [{"id": 98 + n, "image_id": 1, "category_id": 1, "bbox": box}
                    for n, box in enumerate(([90, 10, 5, 5], [1, 2, float("nan"), 4]))]  # fmt: skip
    coco = {"images": images, "annotations": annotations,
            "categories": [{"id": 1, "name": "Right Lung"}, {"id": 2, "name": "Left Lung"}]}  # fmt: skip
    change(coco)
    (root / COVID_BOXES).write_text(json.dumps(coco))
    return root


WRITERS = {"rsna": write_rsna, "nih": write_nih, "vindr": write_vindr, "padchest-gr": write_padchest,
           "ms-cxr": write_ms_cxr, "covid": write_covid}  # fmt: skip


@dataclass
class Prepared:
    """A prepared folder.

    Attributes:
        images: file stem → its entry, with ``split`` and ``boxes``: (class, bbox) pairs.
        flow: stage → its account.
        report: ``report.json``.
    """

    images: dict[str, dict[str, Any]]
    flow: dict[str, dict[str, Any]]
    report: dict[str, Any]

    def boxes(self) -> list[tuple[str, list[float]]]:
        return [box for image in self.images.values() for box in image["boxes"]]

    def values(self, column: str) -> dict[str, Any]:
        return {name: image["clinical"][column] for name, image in self.images.items()}


def prepare(name: str, root: Path, out: Path, *options: str) -> Prepared:
    """Run ``mdf prepare`` and read the folder back, without the package's own loader."""
    main([name, "--root", str(root), "--out", str(out), "--num-workers", "1", *options])
    found, report = read_prepared(out)
    for image in found.values():
        image["boxes"] = [(box["class"], box["bbox"]) for box in image["boxes"]]
    images = {Path(image["file_name"]).stem: image for image in found.values()}
    return Prepared(images, {stage["stage"]: stage for stage in report["flow"]}, report)
