"""Exported files against the model, on images and records that their traces have not seen."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import build_model
from torch import nn

from mdf_detectron.cli.export_model import main
from mdf_detectron.errors import ConfigError, UserError
from mdf_detectron.export.export import DESCRIPTION, ExportedModel, average_pooled, export_model
from mdf_detectron.inference.predictor import Predictor
from mdf_detectron.modeling.fusions import ElementwiseSum

runtime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed (extra export)")


def reconfigured(weights, *options):
    """A predictor whose model is another one with random weights, its record statistics kept."""
    predictor = Predictor(weights, device="cpu")
    encoder = predictor.model.backbone.clinical_encoder
    predictor.cfg.merge_from_list(list(options))
    torch.manual_seed(1)
    predictor.model = build_model(predictor.cfg).eval()
    predictor.model.backbone.clinical_encoder.load_state_dict(encoder.state_dict())
    return predictor


@pytest.fixture(scope="module", params=["image-only", "compact", "deconv"])
def exported(request, tiny_run, tiny_image_only_run, tiny_folder, tmp_path_factory):
    """A predictor of a model of the demo's size, and its two files."""
    folder = tmp_path_factory.mktemp("exported")
    if request.param == "deconv":
        predictor = reconfigured(tiny_run / "model_final.pth", "MODEL.CLINICAL.BRANCH", "deconv")
    else:
        run = tiny_run if request.param == "compact" else tiny_image_only_run
        predictor = Predictor(run / "model_final.pth", device="cpu")
    shown = [[predictor.prepare(tiny_folder / "images" / "test_1.png").model_input]]
    found = {end: export_model(predictor, folder / f"model.{end}", shown) for end in ("onnx", "ts")}
    return predictor, folder, found


def test_files_agree_with_the_predictor_on_studies_of_any_number(exported, tiny_folder):
    predictor, folder, compared = exported
    records = [{"age": 43, "temperature": 98.6, "gender": "F"}, {"age": 47, "gender": "M"}, None, {"temperature": 101}]
    images = [tiny_folder / "images" / f"test_{number}.png" for number in range(4)]
    prepared = [predictor.prepare(*study) for study in zip(images, records, strict=True)]
    wanted = [predictor.predict([one])[0].findings for one in prepared]
    assert sum(map(len, wanted)) > 8
    for end in ("onnx", "ts"):
        assert compared[end]["detections"] > 8 and compared[end]["images"] == 5
        file = ExportedModel(folder / f"model.{end}", threads=1)
        for numbers in ([0], [1, 2, 3], [3, 1]):
            batch = {name: np.stack([prepared[i].model_input[name] for i in numbers]) for name in file.input_names}
            out = file(batch)
            assert len(out["scores"]) == sum(len(wanted[i]) for i in numbers)
            for place, i in enumerate(numbers):
                mine = out["image_index"] == place
                boxes = out["boxes"][mine] * np.array([96, 80, 96, 80]) / 128  # to pixels of the original image
                np.testing.assert_allclose(boxes, [f.box for f in wanted[i]], atol=1e-2)
                np.testing.assert_allclose(out["scores"][mine], [f.score for f in wanted[i]], atol=1e-4)
                assert out["classes"][mine].tolist() == [f.class_index for f in wanted[i]]
                assert out["masks"][mine].shape[1:] == (28, 28)


def test_a_file_describes_itself(exported):
    predictor, folder, _ = exported
    session = runtime.InferenceSession(str(folder / "model.onnx"))  # as a program without this package reads it
    about = json.loads(session.get_modelmeta().custom_metadata_map[DESCRIPTION])
    assert about == ExportedModel(folder / "model.ts").description
    assert [one["name"] for one in about["inputs"]] == [one.name for one in session.get_inputs()]
    assert [one["name"] for one in about["outputs"]] == [one.name for one in session.get_outputs()]
    assert session.get_inputs()[0].shape == ["images", 1, "height", "width"]
    assert about["class_names"] == ["bright", "dark"] and about["image"] == {"channels": "L", "resize_to": [128, 128]}
    if predictor.columns:
        assert about["numeric"][1] == {"name": "temperature", "unit": "°F", "range": [80.0, 113.0]}
        assert about["categorical"] == [{"name": "gender", "vocabulary": ["F", "M"]}]


def test_what_a_trace_would_fix_is_refused_and_not_written(tiny_run, tmp_path, monkeypatch):
    predictor = Predictor(tiny_run / "model_final.pth", device="cpu")
    monkeypatch.setattr(ElementwiseSum, "forward", lambda self, image, clinical: image + float(clinical.std()))
    with pytest.raises(ConfigError, match="disagrees with the model"):
        export_model(predictor, tmp_path / "model.ts")

    def untraceable(self, image, clinical):
        if torch.jit.is_tracing():
            raise RuntimeError("no such operator")
        return image + clinical

    monkeypatch.setattr(ElementwiseSum, "forward", untraceable)
    with pytest.raises(ConfigError, match=r"cannot be exported to ONNX .*ElementwiseSum.*no such operator"):
        export_model(predictor, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_files_of_other_programs_and_formats_are_refused(tiny_run, tmp_path):
    for name in ("other.onnx", "other.ts"):
        (tmp_path / name).write_bytes(b"nothing of this project")
        with pytest.raises(UserError, match=f"{name}: no .* file of `mdf export`"):
            ExportedModel(tmp_path / name)
    with pytest.raises(ConfigError, match="the ending says the format"):
        main(["--weights", str(tiny_run / "model_final.pth"), "--out", str(tmp_path / "model.pb")])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cascade_mdf_net", []),
        ("retinanet_mdf_net", ["MODEL.RETINANET.NUM_CLASSES", 2, "MODEL.RETINANET.SCORE_THRESH_TEST", 0.0]),
        ("mdf_net_fpn", ["MODEL.CLINICAL.BRANCH", "compact", "MODEL.CLINICAL.FUSION_LOGITS", True]),
    ],
)
def test_other_detectors_and_fusions(tiny_run, small_config, fit_encoder, tmp_path, name, options):
    predictor = Predictor(tiny_run / "model_final.pth", device="cpu")
    options = ["INPUT.IMAGE_SIZE", 64, "MODEL.CLINICAL.NUMERIC", ["age", "temperature"], *options]
    opts = ["MODEL.ROI_HEADS.NUM_CLASSES", 2, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0,
            "MODEL.ROI_MASK_HEAD.CONV_DIM", 16, *options]  # fmt: skip
    predictor.cfg = small_config(f"mimic_eye/{name}.yaml", *opts)
    torch.manual_seed(3)
    predictor.model = fit_encoder(build_model(predictor.cfg)).eval()
    for layer in predictor.model.modules():  # untrained classifiers give every box nearly the same score
        if isinstance(layer, nn.Linear) and layer.out_features == 3 or getattr(layer, "out_channels", 0) == 18:
            nn.init.normal_(layer.weight, std=0.5)
    for end in ("onnx", "ts"):
        assert export_model(predictor, tmp_path / f"model.{end}")["detections"] > 20


def test_means_over_a_map():
    x = torch.randn(2, 3, 13, 8)
    for size in ((13, 8), (5, 8), (1, 3), (7, 2)):
        torch.testing.assert_close(average_pooled(x, size), F.adaptive_avg_pool2d(x, size))


def test_no_detection_is_an_empty_answer(tiny_run, tmp_path, capsys):
    predictor = reconfigured(tiny_run / "model_final.pth", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 1.0)
    assert export_model(predictor, tmp_path / "model.onnx")["detections"] == 0
    inputs = [predictor.prepare(np.zeros((40, 40), np.uint8)).model_input]
    exported = ExportedModel(tmp_path / "model.onnx")
    out = exported({name: np.stack([x[name] for x in inputs]) for name in exported.input_names})
    assert out["boxes"].shape == (0, 4) and out["masks"].shape == (0, 28, 28)
