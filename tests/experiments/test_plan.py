"""Plans: the package's, and what is wrong with others; data and results folders that do not fit."""

import json

import pytest
from tiny_training import edit

from mdf_detectron.config import reads_record, value_at
from mdf_detectron.config_file import load_config
from mdf_detectron.errors import ConfigError, DatasetError, ResultsError
from mdf_detectron.experiments.plan import PLANS, Plan, column_sets, read_plan, with_columns
from mdf_detectron.experiments.study_data import open_study_data, overrides_of_data
from mdf_detectron.experiments.trainings import ENTRY_FILE_NAME, check_results_folder, make_trainings


@pytest.mark.parametrize("name", sorted(path.stem for path in PLANS.glob("*.yaml")))
def test_the_packages_plans_fit_any_folder(name, tiny_folder, tmp_path):
    """Every variant of every plan is a config that loads, for data with other columns and classes than the paper's."""
    plan = read_plan(name, {"dataset": str(tiny_folder), "seeds": [1]})
    data = open_study_data(plan.dataset, plan.folds)
    plan = with_columns(plan, data.schema.names)
    trainings = make_trainings(plan, data, tmp_path)
    assert len(trainings) == len(plan.variants) and len({t.folder for t in trainings}) == len(trainings)
    for training in trainings:
        assert training.cfg.DATASETS.TRAIN == (f"{tiny_folder.name}_train",) and training.cfg.DATASETS.TEST == ()
        assert training.cfg.MODEL.ROI_HEADS.NUM_CLASSES == 2
        assert set(training.cfg.MODEL.CLINICAL.NUMERIC) <= {"age", "temperature"}
    reading = [t for t in trainings if reads_record(t.cfg)]
    assert reading and all(t.states == ("full", *plan.records) for t in reading)
    assert all(t.states == ("full",) for t in trainings if t not in reading)


def test_column_sets_are_the_papers_or_each_column_alone():
    paper = column_sets(["age", "temperature", "heartrate", "resprate", "o2sat", "sbp", "gender"])
    assert len(paper) == 9 and paper["GA"] == ("gender", "age")
    assert paper["ATHRO"] == ("age", "temperature", "heartrate", "resprate", "o2sat")
    assert column_sets(["lactate", "sex"]) == {"lactate": ("lactate",), "sex": ("sex",)}


def test_sets_become_variants_with_their_published_values():
    plan = with_columns(read_plan("paper"), ["age", "temperature", "heartrate", "resprate", "o2sat", "gender"])
    assert plan.variant("columns_GAR").published["AP50"] == 27.98
    figure = next(f for f in plan.figures if f.name == "figure_5c")
    assert figure.variants[:2] == ["mdf_net", "columns_ATHRO"] and len(figure.variants) == 10


def test_a_set_of_columns_is_a_folder_of_its_own():
    variants = [{"name": "c", "columns": "sets"}, {"name": "c_age"}]
    plan = Plan(name="p", dataset="d", variants=variants)
    named = with_columns(plan.model_copy(update={"variants": plan.variants[:1]}), ["pO2 / FiO2", "age"])
    assert [variant.name for variant in named.variants] == ["c_pO2---FiO2", "c_age"]
    with pytest.raises(ConfigError, match="two variants are named 'c_age', one for a set of columns"):
        with_columns(plan, ["age"])


def test_the_papers_plan_has_each_figures_schedule_selection_and_decay():
    chosen = ("SOLVER.MAX_ITER", "VALIDATION.METRIC", "SOLVER.WEIGHT_DECAY", "MODEL.MASK_ON")
    for variant in read_plan("paper").variants:
        opts = [part for pair in variant.overrides.items() for part in pair]
        cfg = load_config(variant.config, ["MODEL.TIMM.PRETRAINED", False, *opts])
        short = variant.name in ("mdf_net", "hadamard", "concat_linear", "concat_conv") or "_both" in variant.name
        metric = "bbox_iobb/AP50" if variant.name == "msf_net_1d" else "bbox_iobb/AR50"
        decay = 1e-5 if variant.name == "columns" else 0.0
        assert [value_at(cfg, key) for key in chosen] == [7020 if short else 11700, metric, decay, not short]


def test_figure_3_has_the_batch_norms_of_each_trunk():
    """torchvision builds MobileNetV3 with a batch norm of its own, and the others with torch's."""
    for variant in read_plan("paper").variants:
        opts = [part for pair in variant.overrides.items() for part in pair]
        t = load_config(variant.config, ["MODEL.TIMM.PRETRAINED", False, *opts]).MODEL.TIMM
        own = {"mobilenetv3_small_100": [0.001, 0.01], "convnext_tiny": t.BATCH_NORM}
        assert list(t.BATCH_NORM) == list(own.get(t.NAME, [0.00001, 0.1])), variant.name


ALONE = {"question": None, "figures": []}
SETS = [{"name": "a"}, {"name": "s", "columns": "sets"}]
BAD_PLANS = [
    ({"sedes": [1]}, "unknown key 'sedes'"),
    ({"variants": [{"name": "a", "cfg": "x"}]}, "unknown key 'variants[0].cfg'"),
    ({"variants": [{"name": "a"}] * 2, **ALONE}, "two variants are named 'a'"),
    ({"variants": [{"name": "../a"}]}, "letters, digits"),
    ({"variants": []}, "variants: there are none"),
    ({"question": {"baseline": "image_only", "model": "mdf"}}, "there is no variant 'mdf'; there are"),
    ({"figures": [{"name": "f", "show": "counts", "variants": ["x"]}]}, "figure 'f'"),
    ({"figures": [{"name": "f", "show": "counts", "variants": 3.5}]}, "variants: 3.5: input should be a valid list"),
    ({"figures": [{"name": "../f", "show": "counts"}]}, "becomes a folder or file"),
    ({"figures": [{"name": "f", "show": "pie"}]}, "figures[0].show: 'pie': input should be 'counts'"),
    ({"config": None}, "variant 'image_only' has no config"),
    ({"seeds": [1, 1]}, "list of different whole numbers"),
    ({"overrides": {"SEED": 3}}, "SEED is set by the plan itself"),
    ({"records": ["lost"]}, "records: 'lost' is none of half, removed, shuffled, 'share 75', '<column> removed'"),
    ({"records": ["share 100"]}, "records: 'share 100' is none of half, removed, shuffled, 'share 75'"),
    ({"metric": "AP50"}, "write <table>/<metric>"),
    ({"overrides": {"SOLVER": {"MAX_ITER": 10}}}, "whole names: SOLVER.MAX_ITER: VALUE"),
    ({"variants": [{"name": n, "title": "A"} for n in "ab"], **ALONE}, "two variants have the title 'A'"),
    ({"variants": SETS, "question": None, "figures": [{"name": "f", "show": "comparison", "reference": "s"}]},
     "figure 'f', reference: 's' stands for several variants"),
    ({"variants": SETS, "figures": [], "question": {"baseline": "a", "model": "s"}},
     "model: 's' stands for several variants"),
    ({"variants": [{"name": "a", "published": {"AP50": "31.7"}}], **ALONE}, "variants[0]: published is"),
    ({"folds": 0}, "folds: 0; write a list"),
    ({"folds": "some"}, "whole numbers from 0 on, or all or available"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), BAD_PLANS)
def test_bad_plans(changes, message, plan_file):
    path = plan_file(**changes)
    with pytest.raises(ConfigError) as error:
        read_plan(path)
    assert message in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_plan_that_is_not_there():
    with pytest.raises(ConfigError, match="no plan at 'papr'; .*does_it_help, fusions, paper"):
        read_plan("papr")


@pytest.mark.parametrize("name", ["paper", "does_it_help", "fusions"])
def test_titles_name_what_is_trained(name):
    """What a title of a shipped plan says of branch and fusion is what its config has."""
    branches, fusions = ("deconv", "compact", "repeat"), {"Hadamard": "HadamardProduct", "FiLM": "FiLM"}
    for variant in read_plan(name).variants:
        opts = [part for pair in variant.overrides.items() for part in pair]
        model = load_config(variant.config, ["MODEL.TIMM.PRETRAINED", False, *opts]).MODEL
        named = [b for b in branches if b in variant.title]
        assert named in ([], [model.CLINICAL.BRANCH]), variant.title
        if name == "paper":
            assert model.CLINICAL.BRANCH == "deconv" and model.CLINICAL.AUXILIARY_WEIGHT == 0, variant.title
        for word, fusion in fusions.items():
            assert word not in variant.title or fusion == model.FUSION.NAME, variant.title
        if "mage-only" in variant.title:
            assert not model.CLINICAL.FUSION_3D and not model.CLINICAL.FUSION_1D, variant.title


BAD_CONFIGS = [
    ({"config": "mimic_eye/mdf_nett.yaml"}, ConfigError, "variant 'image_only': no config file"),
    ({"overrides": {"SOLVER.MAX_ITR": 1}}, ConfigError, "variant 'image_only': .*MAX_ITR"),
    ({"variants": [{"name": "a", "columns": ["weight"]}], **ALONE}, DatasetError,
     "variant 'a': .*no clinical column 'weight'; it has age, temperature, gender"),
    ({"subgroups": ["agee"]}, ConfigError, "subgroups: .*no clinical column 'agee'; it has age"),
    ({"records": ["weight removed"]}, ConfigError, "records: 'weight removed': the data have no clinical column"),
    ({"metric": "segm/AP50"}, ConfigError, "is of masks, and variant 'image_only' has none"),
    ({"metric": "bbox_iobb/AP51"}, ConfigError, "metric 'bbox_iobb/AP51' is not measured"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "error", "message"), BAD_CONFIGS)
def test_bad_configs(changes, error, message, make_study, tiny_folder):
    with pytest.raises(error, match=message):
        make_study(tiny_folder, **changes)


def test_folds_without_a_class_or_a_split(make_folds):
    folds_folder = make_folds()
    assert list(open_study_data(str(folds_folder), "all").splits) == [0, 1]
    assert list(open_study_data(str(folds_folder), ()).splits) == [-1]
    with pytest.raises(DatasetError, match=r"fold\(s\) \[0, 3\] are asked for, it has \[0, 1\]"):
        open_study_data(str(folds_folder), (0, 3))
    edit(folds_folder / "fold_1", "test", lambda d: d.update(
        annotations=[a for a in d["annotations"] if a["category_id"] == 1]))  # fmt: skip
    with pytest.raises(DatasetError, match="fold_1: no image of class 'dark' in the test split"):
        open_study_data(str(folds_folder), "all")
    edit(folds_folder, "val", lambda d: d.update(annotations=[], images=[]))
    with pytest.raises(DatasetError, match="has no validation split"):
        open_study_data(str(folds_folder), ())
    (folds_folder / "annotations" / "val.json").unlink()
    with pytest.raises(DatasetError, match="has no val split"):
        open_study_data(str(folds_folder), ())


def test_absent_folders(tiny_folder):
    with pytest.raises(DatasetError, match="no prepared folder at 'nowhere'"):
        open_study_data("nowhere", ())
    with pytest.raises(DatasetError, match="fold.* all are asked for, it has none"):
        open_study_data(str(tiny_folder), "all")
    assert list(open_study_data(str(tiny_folder), "available").splits) == [-1]


def test_config_follows_the_data(tiny_folder, make_folds):
    folds_folder = make_folds()
    data = open_study_data(str(tiny_folder), ())
    found = overrides_of_data(data, "mimic_eye/mdf_net.yaml", None)
    assert found["MODEL.CLINICAL.NUMERIC"] == ["age", "temperature"]  # the config's columns are not all there
    assert found["MODEL.CLINICAL.CATEGORICAL"] == ["gender"] and "MODEL.MASK_ON" not in found
    edit(folds_folder, "train", lambda d: [a.pop("segmentation") for a in d["annotations"]])
    without = overrides_of_data(open_study_data(str(folds_folder), ()), "mimic_eye/mdf_net.yaml", ["gender"])
    assert without["MODEL.MASK_ON"] is False and without["MODEL.CLINICAL.NUMERIC"] == []


def test_a_results_folder_of_another_plan(make_study, tiny_folder, tmp_path):
    out = tmp_path / "out"
    _, _, trainings = make_study(tiny_folder, out)
    check_results_folder(out, trainings)
    for training in trainings:
        training.write_entry()
    check_results_folder(out, trainings)
    with pytest.raises(ResultsError, match="INPUT.RANDOM_SCALE was 0.0, it is 0.2 now"):
        check_results_folder(out, make_study(tiny_folder, out, ("INPUT.RANDOM_SCALE", "0.2"))[2])
    _, _, more = make_study(tiny_folder, out, seeds=[1, 2, 3], records=["half"])
    check_results_folder(out, more)  # more seeds and other states are no other plan
    with pytest.raises(ResultsError) as error:
        check_results_folder(out, make_study(tiny_folder, out, overrides={"SOLVER.BASE_LR": 0.5})[2])
    text = str(error.value)
    assert "seed1 is a results folder of another plan" in text and "was" in text and "it is" in text
    entry = json.loads((trainings[0].folder / ENTRY_FILE_NAME).read_text())
    del entry["settings"]["MODEL.CLINICAL.LOGITS_HIDDEN"]  # as before there was this key
    (trainings[0].folder / ENTRY_FILE_NAME).write_text(json.dumps(entry))
    check_results_folder(out, trainings)
    with pytest.raises(ResultsError, match="LOGITS_HIDDEN was 64, it is 4 now"):
        check_results_folder(out, make_study(tiny_folder, out, ("MODEL.CLINICAL.LOGITS_HIDDEN", "4"))[2])
    of_others = make_study(tiny_folder, out, question=None, figures=[], variants=[{"name": "alone"}])[2]
    with pytest.raises(ResultsError, match="trainings of another plan: this one has no variant '(fused|image_only)'"):
        check_results_folder(out, of_others)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.doc").write_text("x")
    with pytest.raises(ResultsError, match="is not empty and holds no results of a study"):
        check_results_folder(other, make_study(tiny_folder, other)[2])
