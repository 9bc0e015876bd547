"""The study: every variant is a config that builds, one run end to end, and the table by hand."""

import json

import pytest

from mdf_detectron.data.synthetic.cohort import CohortSettings
from mdf_detectron.data.synthetic.prepare import prepare_synthetic
from mdf_detectron.engine.defaults import load_config
from mdf_detectron.errors import UserError
from mdf_detectron.experiments.fusion_study import (
    DATASET,
    RECORD_STATES,
    VARIANTS,
    run_variant,
    scores_by_variant,
    study_chart,
    study_table,
)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_a_config(name):
    cfg = load_config(VARIANTS[name].config_file, VARIANTS[name].opts)
    assert cfg.DATASETS.TEST == (f"{DATASET}_test",)


def run(variant, seed, **scores):
    rows = {state: {"bbox_iobb": {"AP50": value}} for state, value in scores.items()}
    return {"variant": variant, "seed": seed, "rows": rows}


RUNS = [
    run("film", 2, full=80.0, half=70.0, none=60.0, shuffled=40.0),
    run("image", 1, full=50.0),
    run("film", 1, full=70.0, half=66.0, none=60.0, shuffled=42.0),
    run("image", 2, full=52.0),
]


def test_table_by_hand():
    assert scores_by_variant(RUNS) == {
        "image": {"full": [50.0, 52.0]},
        "film": {"full": [70.0, 80.0], "half": [66.0, 70.0], "none": [60.0, 60.0], "shuffled": [42.0, 40.0]},
    }
    lines = study_table(RUNS).splitlines()
    assert lines[2] == "| image-only | 51.0 ± 1.4 | – | – | – |"
    assert lines[3] == "| 3-D, FiLM | 75.0 ± 7.1 | 68.0 ± 2.8 | 60.0 ± 0.0 | 41.0 ± 1.4 |"
    figure = study_chart(RUNS, {"image": 70.0, "both": 89.0}, 2)
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["image-only", "3-D, FiLM"]


def test_a_run_trains_scores_and_is_kept(tmp_path):
    prepare_synthetic(tmp_path / DATASET, CohortSettings(12, seed=1, image_size=96))
    opts = ["SOLVER.MAX_ITER", "1", "INPUT.IMAGE_SIZE", "64", "MODEL.SPATIALIZER.NUM_STAGES", "6"]
    found = run_variant("film", 3, str(tmp_path), opts, 1)
    assert list(found["rows"]) == list(RECORD_STATES) and found["seed"] == 3
    assert all("AP50" in scores["bbox_iobb"] for scores in found["rows"].values())
    weights = tmp_path / "film" / "seed_3" / "model_final.pth"
    before = weights.stat().st_mtime_ns
    again = run_variant("film", 3, str(tmp_path), opts, 1)
    assert weights.stat().st_mtime_ns == before and json.dumps(again) == json.dumps(found)
    prepare_synthetic(tmp_path / DATASET, CohortSettings(12, seed=2, image_size=96))
    run_variant("film", 3, str(tmp_path), opts, 1)
    assert weights.stat().st_mtime_ns > before, "another data set: trained again"
    with pytest.raises(UserError, match=r"training of 3-D, FiLM, seed 4, failed; see .*output\.txt"):
        run_variant("film", 4, str(tmp_path), [*opts, "DATASETS.TRAIN", "('absent_train',)"], 1)
