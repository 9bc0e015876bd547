"""The zoo takes the trainings of today's configs only; the pages show the results that are kept."""

import make_model_zoo
import pytest

from mdf_detectron.config_file import load_config
from mdf_detectron.errors import ConfigError, ResultsError


def test_a_training_of_another_config_does_not_enter_the_zoo(tmp_path):
    name = "synthetic_cxr/mask_rcnn.yaml"
    (tmp_path / "config.yaml").write_text(load_config(name, ["SEED", 3, "OUTPUT_DIR", str(tmp_path)]).dump())
    make_model_zoo.check_config(tmp_path, name)
    (tmp_path / "config.yaml").write_text(load_config(name, ["SEED", 3, "SOLVER.MAX_ITER", 7]).dump())
    with pytest.raises(ResultsError, match="trained by another config: SOLVER.MAX_ITER was 7, it is 1200 now"):
        make_model_zoo.check_config(tmp_path, name)


def test_the_pages_are_current():
    for page, text in make_model_zoo.pages().items():
        assert page.read_text(encoding="utf-8") == text, f"{page.name}: run tools/make_model_zoo.py"
    assert make_model_zoo.spread([1.0, 2.0, 6.0]) == "3.0 ± 2.6" and make_model_zoo.spread([2.0]) == "2.0"


def test_a_page_without_marks():
    with pytest.raises(ConfigError, match="lacks the marks '<b>' and '<e>'"):
        make_model_zoo.replace_marked("only <b>", "<b>", "<e>", "x")
