"""Pictures of what the model sees: of the training's images as they are augmented, of the test's as they are."""

import numpy as np
import pytest

from mdf_detectron.cli import visualize_data

OPTS = ["MODEL.DEVICE", "cpu", "MODEL.ROI_HEADS.NUM_CLASSES", "2", "MODEL.CLINICAL.NUMERIC", "['age']",
        "DATASETS.TRAIN", "('tiny_cxr_train',)", "DATASETS.TEST", "('tiny_cxr_test',)", "INPUT.IMAGE_SIZE", "64",
        "INPUT.RANDOM_FLIP", "none", "INPUT.RANDOM_SCALE", "0.4", "INPUT.RANDOM_JITTER", "[0.0, 0.5]"]  # fmt: skip

SAVE_PANELS = "mdf_detectron.report.images.save_panels"


@pytest.fixture
def drawn(tiny_folder, tmp_path, monkeypatch):
    """``drawn(*words)``: the model's inputs that one run of the command draws."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tiny_folder.parent))

    def run(*words):
        images = []
        monkeypatch.setattr(SAVE_PANELS, lambda path, image, panels, *rest: images.append(image))
        arguments = ["--config-file", "synthetic_cxr/mdf_net.yaml", "--out", str(tmp_path / "out"), *words]
        visualize_data.main([*arguments, *OPTS])
        return images

    return run


def test_test_images_are_not_augmented(drawn):
    first, again = drawn("--split", "test"), drawn("--split", "test")
    assert first and all(map(np.array_equal, first, again))
    assert not all(map(np.array_equal, drawn(), drawn()))


def test_bitmaps_are_drawn(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tiny_folder.parent))
    panels = []
    monkeypatch.setattr(SAVE_PANELS, lambda path, image, shown, *rest: panels.extend(shown))
    visualize_data.main(
        ["--config-file", "synthetic_cxr/mdf_net.yaml", "--out", str(tmp_path), *OPTS, "INPUT.MASK_FORMAT", "bitmask"]
    )
    with_boxes = [panel for panel in panels if panel.boxes]
    assert with_boxes
    for panel in with_boxes:
        assert len(panel.polygons) == len(panel.boxes) and all(len(one) and len(one[0]) >= 6 for one in panel.polygons)
