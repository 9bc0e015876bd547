"""A training resumes only from a whole checkpoint of the same config and data, and never mixes with another run."""

import copy
import json
import os
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from tiny_training import SMALL, datasets

from mdf_detectron.checkpoint.checkpoint import (
    DIGEST_KEY,
    TRAINING_DIGEST_KEY,
    Checkpoint,
    digest,
    save_checkpoint_file,
    signed,
    training_digest,
)
from mdf_detectron.cli import train
from mdf_detectron.config import flat_config
from mdf_detectron.config_file import load_config
from mdf_detectron.data.catalog import register_prepared_folder
from mdf_detectron.engine import run as running
from mdf_detectron.engine.resume import (
    FREE_KEYS,
    archive_previous_run,
    check_resumable,
    checkpoint_to_resume,
    cut_log,
    differing_keys,
    is_finished,
    lock_output_dir,
)
from mdf_detectron.engine.trainer import MultimodalTrainer
from mdf_detectron.errors import CheckpointError, ConfigError
from mdf_detectron.locks import FolderInUseError, FolderLock

CONFIG = Path(__file__).parents[2] / "configs" / "synthetic_cxr" / "mdf_net.yaml"
TINY = [*SMALL, "MODEL.SPATIALIZER.CHANNELS", 8, "MODEL.MASK_ON", False, "SOLVER.MAX_ITER", 2,
        "MODEL.RPN.POST_NMS_TOPK_TEST", 20, "SOLVER.OPTIMIZER", "AdamW", "CLINICAL_DIAGNOSTICS.PERIOD", 0,
        *datasets("strict_cxr", "train"), "DATASETS.TEST", ()]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tiny_folder, tmp_path_factory):
    register_prepared_folder(tiny_folder, "strict_cxr")
    out = tmp_path_factory.mktemp("trained")
    trainer = MultimodalTrainer(load_config(CONFIG, [*TINY, "OUTPUT_DIR", str(out)]))
    trainer.train()
    return trainer.cfg, trainer, out / "model_final.pth"


@pytest.fixture
def check(trained):
    _, trainer, path = trained
    return lambda data: check_resumable(Checkpoint(path, data), trainer)


def test_its_own_checkpoint_is_taken(trained, check):
    data = Checkpoint.open(trained[2]).data
    assert {DIGEST_KEY, TRAINING_DIGEST_KEY} <= data.keys() and data["trainer"]["hooks"].keys() >= {"ScalarHistory"}
    check(data)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("NUM_CLASSES: 2", "NUM_CLASSES: 3", "another config: MODEL.ROI_HEADS.NUM_CLASSES: 3 → 2"),
        ("  GAMMA: 0.1", "  GAMMA: 0.7", r"config: SOLVER.GAMMA: 0.7 → 0.1\. Resume with the config.yaml next to it"),
        ("- temperature", "- o2sat", r"MODEL.CLINICAL.NUMERIC: \['age', 'o2sat'\] → \['age', 'temperature'\]"),
        ("", "", "holds no config"),
    ],
)  # fmt: skip
def test_another_config_is_refused_and_its_keys_are_named(trained, check, old, new, message):
    data = Checkpoint.open(trained[2]).data
    data["mdf_config"] = None if not new else data["mdf_config"].replace(old, new)
    with pytest.raises(CheckpointError, match=message) as error:
        check(data)
    assert "\n" not in str(error.value) and len(str(error.value).replace(str(trained[2]), "")) < 300


def test_keys_that_change_no_weight_may_differ(trained):
    cfg = trained[0]
    other = cfg.clone()
    other.defrost()
    other.merge_from_list(["OUTPUT_DIR", "elsewhere", "SOLVER.MAX_ITER", 9, "TEST.EVAL_PERIOD", 3, "SOLVER.STEPS", (1,),
                           "VALIDATION.PATIENCE", 2, "DATALOADER.NUM_WORKERS", 2, "MODEL.WEIGHTS", "x"])  # fmt: skip
    assert differing_keys(cfg, other) == []
    other.SEED, other.INPUT.IMAGE_SIZE, other.SOLVER.GAMMA = 5, 128, 0.5
    assert [d.partition(":")[0] for d in differing_keys(cfg, other)] == ["INPUT.IMAGE_SIZE", "SEED", "SOLVER.GAMMA"]
    assert [k for k in FREE_KEYS if not any(name.startswith(k) for name in flat_config(cfg))] == []


def _without(data, *path):
    for key in path[:-1]:
        data = data[key]
    del data[path[-1]]


def _set(value, data, *path):
    for key in path[:-1]:
        data = data[key]
    data[path[-1]] = value


OPTIMIZER = ("trainer", "_trainer", "optimizer")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: _without(d, "trainer"), "weights only, no state of a training"),
        (lambda d: _without(d, TRAINING_DIGEST_KEY), "weights only, no state of a training"),
        (lambda d: _without(d, "trainer", "_trainer"), "weights only, no state of a training"),
        (lambda d: _without(d, *OPTIMIZER, "param_groups", 0), "other parameters than the model"),
        (lambda d: _set(torch.zeros(3, 7), d, *OPTIMIZER, "state", 0, "exp_avg"), r"exp_avg .* the shape \(3, 7\)"),
        (lambda d: d["trainer"]["_trainer"]["optimizer"]["state"][0]["exp_avg"].fill_(float("nan")),
         "exp_avg of parameter 0 is not finite"),
        (lambda d: _set(["x", "y"], d, "contents", "class_names"), "trained on other data: class_names"),
        (lambda d: _set(5, d, "contents", "training", "images"), "other data: training images 5 → 8"),
    ],
)  # fmt: skip
def test_what_is_not_whole_is_refused(trained, check, change, message):
    data = copy.deepcopy(Checkpoint.open(trained[2]).data)
    change(data)
    with pytest.raises(CheckpointError, match=message) as error:
        check(data)
    assert "\n" not in str(error.value)


def test_a_flipped_bit_of_the_optimizer_is_found(trained, tmp_path):
    data = Checkpoint.open(trained[2]).data
    bits = data["trainer"]["_trainer"]["optimizer"]["state"][0]["exp_avg_sq"].view(-1).view(torch.int32)
    bits[0] ^= 1
    save_checkpoint_file(data, tmp_path / "model_0000001.pth")
    assert digest(data) == data[DIGEST_KEY] and training_digest(data) != data[TRAINING_DIGEST_KEY]
    with pytest.raises(CheckpointError, match="model_0000001.pth is damaged or was edited"):
        Checkpoint.open(tmp_path / "model_0000001.pth")


def test_a_weight_that_is_absent_is_refused(trained, tmp_path):
    cfg, trainer, path = trained
    data = Checkpoint.open(path).data
    name = next(n for n in data["model"] if n.endswith("bbox_pred.weight"))
    del data["model"][name]
    save_checkpoint_file(signed(data), tmp_path / "model_0000001.pth")
    with pytest.raises(CheckpointError, match=r"1 weight\(s\) are absent"):
        trainer.checkpointer.load_whole(tmp_path / "model_0000001.pth")


def test_finished_training_says_so(trained, capsys, tmp_path):
    cfg = trained[0].clone()
    assert is_finished(cfg, "results.json")
    assert "the training is finished (2 iterations); nothing to resume. To continue, raise" in capsys.readouterr().out
    cfg.defrost()
    cfg.SOLVER.MAX_ITER = 4
    assert not is_finished(cfg, "results.json")  # more iterations are wanted
    cfg.SOLVER.MAX_ITER, cfg.DATASETS.TEST = 2, ("strict_cxr_test",)
    assert not is_finished(cfg, "results.json")  # killed before evaluation
    cfg.OUTPUT_DIR = str(tmp_path)
    assert not is_finished(cfg, "results.json") and capsys.readouterr().out == ""


def test_which_checkpoint_is_resumed(tmp_path):
    assert checkpoint_to_resume(tmp_path) is None
    for name in ("model_best.pth", "model_0000009.pth", "model_0000019.pth", "model_final.pth"):
        (tmp_path / name).touch()
    assert checkpoint_to_resume(tmp_path).name == "model_0000019.pth"  # killed before the name was written
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
    assert checkpoint_to_resume(tmp_path).name == "model_0000009.pth"
    (tmp_path / "last_checkpoint").write_text("gone.pth")
    with pytest.raises(CheckpointError, match=r"last_checkpoint names 'gone.pth', which is not there"):
        checkpoint_to_resume(tmp_path)


def fake_run(folder):
    for name in ("model_0000009.pth", "last_checkpoint", "metrics.json", "results.json", "events.out.tfevents.1",
                 "log.txt", "config.yaml", "notes.txt", "model_0000019.pth.77.partial"):  # fmt: skip
        (folder / name).write_text(name)
    (folder / "last_checkpoint").write_text("model_0000009.pth")
    (folder / "inference").mkdir()


def test_new_run_moves_the_earlier_one_aside(tmp_path, small_config):
    cfg = small_config("synthetic_cxr/mdf_net.yaml", "OUTPUT_DIR", str(tmp_path))
    (tmp_path / "log.txt").touch()
    assert archive_previous_run(tmp_path) is None  # the folder is an evaluation's
    for number in ("1", "2"):
        fake_run(tmp_path)
        with lock_output_dir(cfg, fresh=False), pytest.raises(FolderInUseError):
            FolderLock(tmp_path).__enter__()
        with lock_output_dir(cfg, fresh=True, resume=True):
            assert (tmp_path / "model_0000009.pth").is_file()
        with lock_output_dir(cfg, fresh=True):
            assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "notes.txt", "previous_runs"]
        moved = {p.name for p in (tmp_path / "previous_runs" / number).iterdir()}
        assert moved >= {"model_0000009.pth", "metrics.json", "inference", "log.txt"} and len(moved) == 8
    fake_run(tmp_path)
    cfg.MODEL.WEIGHTS = os.path.join(os.path.relpath(tmp_path), "model_0000009.pth")
    with pytest.raises(ConfigError, match="lies in OUTPUT_DIR, whose run a new training moves aside"):
        lock_output_dir(cfg, fresh=True).__enter__()
    assert (tmp_path / "metrics.json").is_file() and not (tmp_path / ".lock").exists()


def test_second_training_is_refused_by_the_command(tmp_path, tiny_folder, monkeypatch):
    register_prepared_folder(tiny_folder, "strict_cxr")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    argv = ["--config-file", str(CONFIG), *map(str, TINY), "OUTPUT_DIR", str(tmp_path / "out")]
    with FolderLock(tmp_path / "out"), pytest.raises(FolderInUseError, match=f"in use by process {os.getpid()} on"):
        train.main(argv)
    assert list((tmp_path / "out").iterdir()) == []


def test_lines_after_the_checkpoint_are_cut(tmp_path):
    path = tmp_path / "metrics.json"
    assert cut_log(path, 5) == -1
    lines = [json.dumps({"iteration": i}) + "\n" for i in (0, 2, 4, 6)]
    path.write_text("".join(lines) + '{"iteration": 8')
    assert cut_log(path, 6) == 4 and path.read_text() == "".join(lines[:3])
    assert cut_log(path, 0) == -1 and path.read_text() == ""
    path.write_text("".join(lines[:2]) + "broken\n" + lines[2])
    assert cut_log(path, 9) == 2 and path.read_text() == "".join(lines[:2])


def test_set_up_of_a_process(tmp_path, tiny_folder, monkeypatch):
    """Deterministic operators if asked for, and threads for the cores that the loader's workers leave."""
    register_prepared_folder(tiny_folder, "strict_cxr")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    monkeypatch.setattr(running, "default_setup", lambda cfg, args: None)
    monkeypatch.setattr(running, "use_free_cores", lambda *counts: threads.append(counts))
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    threads = []
    try:
        for wanted in (False, True):
            args = Namespace(config_file=str(CONFIG), opts=[*TINY, "DETERMINISTIC", wanted])
            running.setup_process(running.setup_cfg(args), args)
            assert torch.are_deterministic_algorithms_enabled() == wanted
            assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == (":4096:8" if wanted else None)
        assert torch.is_deterministic_algorithms_warn_only_enabled() and threads == [(0, 1)] * 2
    finally:
        torch.use_deterministic_algorithms(False)
