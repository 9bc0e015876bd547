"""From a folder of images and a COCO export alone to an evaluated model, with nothing written by hand."""

from forked import Forked

from tests.data.sources.own_files import write_coco, write_images

SHORT = ["SOLVER.MAX_ITER", 2, "TEST.EVAL_PERIOD", 2, "DATALOADER.NUM_WORKERS", 0, "MODEL.DEVICE", "cpu"]


def test_from_images_alone_to_an_evaluation(tmp_path):
    def mdf(*words):
        done = Forked(*words, cwd=tmp_path, environment={"DETECTRON2_DATASETS": str(tmp_path / "datasets")})
        assert done.wait() == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return done.stdout

    entries = [entry for entry in write_images(tmp_path / "scans") if entry["name"].endswith(".png")]
    coco = write_coco(tmp_path / "boxes.json", entries)
    for path in (tmp_path / "scans").glob("*.dcm"):
        path.unlink()
    mdf("prepare", "own", "--annotations", coco, "--images", "scans", "--image-size", 64, "--bit-depth", 16,
        "--out", "datasets/pictures_cxr")  # fmt: skip
    assert "page.html: written" in mdf("describe", "datasets/pictures_cxr", "--out", "page.html")
    assert "image_only.yaml written" in mdf("init", "datasets/pictures_cxr", "--out", "cfg")
    mdf("train", "--config-file", "cfg/image_only.yaml", *SHORT)
    assert "no clinical column" in (tmp_path / "page.html").read_text()
    assert [path.name for path in (tmp_path / "cfg").iterdir()] == ["image_only.yaml"]
    trained = tmp_path / "output" / "pictures_cxr" / "image_only"
    assert (trained / "model_final.pth").is_file()
    assert (trained / "inference" / "pictures_cxr_test" / "coco_instances_results.json").is_file()
