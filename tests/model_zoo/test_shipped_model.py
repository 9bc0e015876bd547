"""The model that ships with the package: a prediction without training or network, and its AP measured again."""

import json

import pytest
from PIL import Image

from mdf_detectron import Predictor, model_zoo
from mdf_detectron.checkpoint.published import ZOO_FOLDER, open_weights, read_zoo
from mdf_detectron.data.catalog import register_prepared_folder
from mdf_detectron.data.loaders import records_of
from mdf_detectron.data.record_changes import permute_records
from mdf_detectron.data.synthetic import prepare
from mdf_detectron.data.synthetic.cohort import CohortSettings, make_cohort
from mdf_detectron.errors import CheckpointError
from mdf_detectron.evaluation.evaluator import evaluate_records

NAME = "synthetic_cxr/logit_fusion"


@pytest.fixture(scope="module")
def test_split(tmp_path_factory):
    """Records of the test split that the entry names; only its images are drawn."""
    folder, settings = tmp_path_factory.mktemp("zoo") / "zoo_cxr", CohortSettings(700, 1, signal=1.0, image_size=160)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "_draw", lambda visit, folder: None)
        prepare.prepare_synthetic(folder, settings, num_workers=1)
    names = {image["file_name"] for image in json.loads((folder / "annotations" / "test.json").read_text())["images"]}
    visits = [visit for patient in make_cohort(settings) for visit in patient.visits]
    for visit in visits:
        if prepare.file_name(visit) in names:
            prepare._draw(visit, folder / "images")
    register_prepared_folder(folder, "zoo_cxr")
    return records_of(["zoo_cxr_test"])


def test_a_first_prediction_needs_no_training_and_no_network(test_split, monkeypatch):
    monkeypatch.delenv("MDF_MODEL_ZOO", raising=False)
    predictor = Predictor(NAME, device="cpu")
    assert predictor.class_names == [
        "Enlarged cardiac silhouette", "Atelectasis", "Pleural abnormality", "Consolidation", "Pulmonary edema"
    ]  # fmt: skip
    found = 0
    annotated = [record for record in test_split if record["annotations"]][:8]
    for record in annotated:
        findings = predictor(record["file_name"], record["clinical"]).to_dict()["findings"]
        truth = {predictor.class_names[a["category_id"]] for a in record["annotations"]}
        found += bool(truth & {finding["class"] for finding in findings if finding["above_threshold"]})
    assert found >= 6, "most annotated images get a finding of a class that they have"
    empty = predictor(Image.new("L", (160, 160))).to_dict()["findings"]
    assert not [finding for finding in empty if finding["above_threshold"]]


def test_its_ap_is_what_its_entry_says_and_comes_from_the_record(test_split):
    """In 16 bits, on the entry's test split."""
    entry = read_zoo()[f"{NAME}.yaml"]
    cfg, model = model_zoo.get_config(f"{NAME}.yaml"), model_zoo.get(f"{NAME}.yaml", trained=True).to("cpu")

    def ap50(records):
        return evaluate_records(cfg, model, "zoo_cxr_test", records)["bbox_iobb"]["AP50"]

    assert ap50(test_split) == pytest.approx(entry.results["bbox_iobb/AP50"][0], abs=0.3)
    assert ap50(permute_records(test_split, seed=0)) == pytest.approx(
        entry.results["bbox_iobb/AP50 exchanged"][0], abs=0.5
    )


def test_the_file_is_small_and_holds_nothing_of_a_machine():
    entry = read_zoo()[f"{NAME}.yaml"]
    path = ZOO_FOLDER / entry.weights
    assert entry.shipped and open_weights(NAME).path == path and path.stat().st_size <= 4_000_000
    content = path.read_bytes()
    for text in (b"/home", b"/tmp", b"/root", b"/work", b"Users"):
        assert text not in content
    card = path.with_suffix(".md").read_text()
    assert "it was trained on synthetic data" in card and "16-bit" in card
    assert path.with_name(f"{path.stem}_reliability.png").is_file()


def test_names_that_are_no_weights():
    with pytest.raises(CheckpointError, match=rf"no checkpoint at nope.pth; .* the package ships: .*{NAME}"):
        open_weights("nope.pth")
    with pytest.raises(CheckpointError, match="no weights of 'synthetic_cxr/mdf_net.yaml' are published; this command"):
        Predictor("synthetic_cxr/mdf_net")
