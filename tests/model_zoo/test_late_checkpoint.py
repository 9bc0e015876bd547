"""An image-only checkpoint that reads the record by late fusion: the same network, and every other part takes it."""

import pytest
import torch

from mdf_detectron.checkpoint.checkpoint import Checkpoint
from mdf_detectron.data.catalog import register_prepared_folder
from mdf_detectron.errors import ConfigError
from mdf_detectron.evaluation.late_fusion import RecordOdds
from mdf_detectron.inference.predictor import Predictor
from mdf_detectron.model_zoo.late_fusion import write_late_fusion

RECORD = {"age": 43, "temperature": 98.6, "gender": "F"}


@pytest.fixture(scope="module")
def late(tiny_image_only_run, tiny_folder, tmp_path_factory):
    """A checkpoint made from the tiny image-only one, whose record says much of both classes."""
    path = tmp_path_factory.mktemp("late") / "late.pth"
    register_prepared_folder(tiny_folder, "tiny_cxr")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mdf_detectron.modeling.record_model.PENALTIES", (0.3,))  # eight images would say nothing
        odds, exponents = write_late_fusion(Checkpoint.open(tiny_image_only_run / "model_final.pth"), path)
    assert isinstance(odds, RecordOdds) and exponents.values.tolist() == [1, 1]
    assert "are needed to fit one" in exponents.note
    return path


def test_without_a_record_it_is_the_image_only_model_and_with_one_the_odds_change(
    late, tiny_image_only_predictor, tiny_folder
):
    predictor, image = Predictor(late, threshold=0.0, device="cpu"), tiny_folder / "images" / "test_1.png"
    alone, without, own = tiny_image_only_predictor(image), predictor(image), predictor(image, RECORD)
    assert len(alone.instances) > 4
    torch.testing.assert_close(without.instances.scores, alone.instances.scores)
    assert not torch.equal(own.instances.scores, alone.instances.scores)
    assert predictor.columns == ["age", "temperature", "gender"] and not any("untrained" in n for n in own.notes)
    assert not any("untrained" in note for note in without.notes)
    ratio = predictor.model.backbone.record_model.log_odds_ratio(
        *(predictor.prepare(image, RECORD).model_input[f"clinical_{kind}"][None] for kind in ("numeric", "categorical"))
    )
    assert ratio.abs().max() > 0.1


def test_commands_take_it(late, run, tiny_folder, tmp_path):
    """Publish in 16 bits (large units stay exact), what-if and export."""
    published = tmp_path / "published.pth"
    run("publish", "--weights", late, "--out", published, "--data", tiny_folder, "--half", "--resamples", 20)
    before, after = (Predictor(path, device="cpu").model.backbone.record_model for path in (late, published))
    assert all(
        torch.equal(x, y) for x, y in zip(before.state_dict().values(), after.state_dict().values(), strict=True)
    )
    run("whatif", "--weights", published, "--image", tiny_folder / "images" / "test_1.png", "--out", tmp_path / "if",
        "--record", "age=43", "gender=F", "--hide", "all", "--sweep", "age", 40, 80, 3)  # fmt: skip
    pytest.importorskip("onnxruntime")
    run("export", "--weights", late, "--out", tmp_path / "late.onnx")


def test_bad_checkpoints(late, run, tiny_run, tiny_image_only_run, tiny_folder, tmp_path):
    register_prepared_folder(tiny_folder, "tiny_cxr")
    with pytest.raises(ConfigError, match=r"reads \['age', .* already; late fusion is of an image-only model"):
        write_late_fusion(Checkpoint.open(late), tmp_path / "x.pth")
    weights = tiny_image_only_run / "model_final.pth"
    with pytest.raises(SystemExit, match=r"unknown clinical column\(s\) \['weight'\]"):
        run("late-fusion", tiny_folder, "--weights", weights, "--out", tmp_path / "x.pth", "--columns", "weight")
    printed = run("late-fusion", tiny_folder, "--weights", weights, "--out", tmp_path / "x.pth", "--columns", "age")
    assert "AUC of the record alone" in printed and "x.pth reads age; mdf publish measures it" in printed
