"""The zoo takes the trainings of today's configs only."""

import pytest
from make_model_zoo import check_config

from mdf_detectron.config_file import load_config
from mdf_detectron.errors import ResultsError


def test_a_training_of_another_config_does_not_enter_the_zoo(tmp_path):
    name = "synthetic_cxr/mask_rcnn.yaml"
    (tmp_path / "config.yaml").write_text(load_config(name, ["SEED", 3, "OUTPUT_DIR", str(tmp_path)]).dump())
    check_config(tmp_path, name)
    (tmp_path / "config.yaml").write_text(load_config(name, ["SEED", 3, "SOLVER.MAX_ITER", 7]).dump())
    with pytest.raises(ResultsError, match="trained by another config: SOLVER.MAX_ITER was 7, it is 1200 now"):
        check_config(tmp_path, name)
