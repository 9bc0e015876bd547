"""Trackers in their local modes log a run's scalars and config, and nothing about the machine."""

import getpass
import json
import math
import os
import socket
import struct
import sys

import pytest
import wandb
from detectron2.utils.events import EventStorage
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from wandb.proto.wandb_internal_pb2 import Record

from mdf_detectron.cli.train import main
from mdf_detectron.engine import hooks, trackers
from mdf_detectron.engine.hooks import build_trackers, check_trackers
from mdf_detectron.engine.trackers import MlflowWriter, WandbWriter, shared_config
from mdf_detectron.errors import ConfigError, UserError


@pytest.fixture
def local(monkeypatch, tmp_path):
    """Make both trackers write below ``tmp_path`` only."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'mlruns'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.chdir(tmp_path)


def wandb_records(folder):
    """Read the records of W&B's files, a LevelDB log of protobuf messages, in order of writing."""
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        data, place, message = path.read_bytes(), 7, b""
        while place + 7 <= len(data):
            if 32768 - place % 32768 < 7:
                place += 32768 - place % 32768
                continue
            length, kind = struct.unpack("<HB", data[place + 4 : place + 7])
            message += data[place + 7 : place + 7 + length]
            place += 7 + length
            if kind in (1, 4):  # whole, or the last part
                yield Record.FromString(message)
                message = b""


def wandb_scalars(folder):
    """Return (iteration, name) → value."""
    found = {}
    for record in wandb_records(folder):
        row = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
        found |= {(row.get("iteration"), k): v for k, v in row.items() if k[0] != "_" and k != "iteration"}
    return found


def test_a_training_and_its_resumption_are_one_run_with_the_scalars_of_the_log(tiny_config, train, tmp_path, local):
    out = tmp_path / "secret_place" / "seed_1"
    opts = ["SOLVER.IMS_PER_BATCH", 2, "MODEL.CLINICAL.NUMERIC", [], "MODEL.CLINICAL.CATEGORICAL", [],
            "TRACKERS", ["wandb", "mlflow"], "OUTPUT_DIR", str(out)]  # fmt: skip
    logged = {}
    for iterations, resume in ((2, False), (3, True)):
        cfg = tiny_config(*opts, "SOLVER.MAX_ITER", iterations, config="synthetic_cxr/mask_rcnn.yaml")
        out.mkdir(parents=True, exist_ok=True)
        train(cfg, resume)
        lines = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
        logged |= {(line["iteration"], k): v for line in lines for k, v in line.items() if k != "iteration"}
    assert {(2, "bbox_iobb/AP50"), (3, "bbox_iobb/AP50"), (1, "raw/loss_cls"), (2, "total_loss")} <= set(logged)

    sent = wandb_scalars(out)
    numbers = {k: v for k, v in logged.items() if not math.isnan(v)}
    assert sent.keys() == logged.keys() and {k: sent[k] for k in numbers} == numbers
    records = list(wandb_records(out))
    assert len({r.run.run_id for r in records if r.run.run_id}) == 1
    config = {u.key or u.nested_key[0]: u.value_json for r in records for u in r.run.config.update}
    assert json.loads(config["MODEL.TIMM.STRIDE"]) == 16 and json.loads(config["OUTPUT_DIR"]) == "seed_1"

    client = MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("mdf_detectron").experiment_id])
    assert run.info.status == "FINISHED" and run.info.user_id == "unknown"
    assert dict(run.data.tags) == {"mlflow.runName": "seed_1"}
    assert run.data.params["MODEL.TIMM.STRIDE"] == "16" and run.data.params["OUTPUT_DIR"] == "seed_1"
    histories = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    stored = {(m.step, name): m.value for name, history in histories.items() for m in history}
    assert stored.keys() == logged.keys()
    assert all(stored[k] == pytest.approx(v, nan_ok=True) for k, v in logged.items())

    # W&B would send nothing about the machine
    content = b"".join(path.read_bytes() for path in out.glob("wandb/offline-run-*/*.wandb"))
    for private in (b"secret_place", socket.gethostname().encode() + b"\n", sys.executable.encode(), b"pytest"):
        assert private not in content
    fields = {r.WhichOneof("record_type") for r in records}
    assert not fields & {"files", "artifact", "output", "output_raw", "stats", "environment"}, fields
    assert not any(r.run.host or r.run.git.remote_url or r.run.git.commit for r in records)
    if len(user := getpass.getuser()) > 4:  # a short name may be part of a word
        assert user.encode() not in content


def test_a_server_that_is_away_for_a_while_gets_its_scalars_later(tmp_path, local, monkeypatch, caplog):
    writer = MlflowWriter(name="a", folder=tmp_path, config={"KEY": [1]})
    writer.start(resumed=False)
    log_batch = writer._client.log_batch

    def away(*args, **kwargs):
        raise MlflowException("away")

    with EventStorage(5) as storage:
        monkeypatch.setattr(writer._client, "log_batch", away)
        storage.put_scalar("AP50-Effusion, left (old)", 1.5)
        writer.write()
        assert "did not take 1 scalars" in caplog.text
        monkeypatch.setattr(writer._client, "log_batch", log_batch)
        storage.step()
        storage.put_scalar("loss", 0.25)
        writer.write()
        writer.write()
        writer.close()
    history = {n: [(m.step, m.value) for m in writer._client.get_metric_history(writer._id, n)]
               for n in writer._client.get_run(writer._id).data.metrics}  # fmt: skip
    assert history == {"AP50-Effusion_ left _old_": [(5, 1.5)], "loss": [(6, 0.25)]}


def test_an_exception_fails_the_run_and_an_unknown_run_is_replaced(tmp_path, local, caplog):
    (tmp_path / trackers.RUNS_FILE_NAME).write_text(json.dumps({"mlflow": "0" * 32, "wandb": "kept"}))
    writer = MlflowWriter(name="a", folder=tmp_path, config={})
    writer.start(resumed=True)
    assert "does not know the run 0000" in caplog.text
    assert json.loads((tmp_path / trackers.RUNS_FILE_NAME).read_text()) == {"mlflow": writer._id, "wandb": "kept"}
    with pytest.raises(RuntimeError):
        try:
            raise RuntimeError
        finally:
            writer.close()
    assert writer._client.get_run(writer._id).info.status == "FAILED"


def test_unreachable_trackers_are_one_line(tmp_path, local, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://here")
    with pytest.raises(UserError, match="^MLflow: .*check MLFLOW_TRACKING_URI"):
        MlflowWriter(name="a", folder=tmp_path, config={}).start(resumed=False)

    def refuse(**options):
        raise wandb.errors.UsageError("No API key configured.")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(UserError, match="^Weights & Biases: .*WANDB_MODE=offline"):
        WandbWriter(name="a", folder=tmp_path, config={}).start(resumed=False)


def test_config_and_absent_packages(small_config, monkeypatch):
    with pytest.raises(ConfigError, match=r"TRACKERS is \['wandb', 'comet'\]; use any of"):
        small_config("synthetic_cxr/mdf_net.yaml", "TRACKERS", ["wandb", "comet"])
    cfg = small_config("synthetic_cxr/mdf_net.yaml", "TRACKERS", ["mlflow"], "OUTPUT_DIR", "/home/someone/run/",
                       "MODEL.WEIGHTS", "https://user:password@host/w.pth")  # fmt: skip
    assert [type(writer) for writer in build_trackers(cfg)] == [MlflowWriter]
    shared = shared_config(cfg)
    assert shared["OUTPUT_DIR"] == "run" and shared["MODEL.WEIGHTS"] == "w.pth"
    assert shared["VALIDATION.METRIC"] == "bbox_iobb/AP50" and shared["MODEL.CLINICAL.NUMERIC"][0] == "age"
    monkeypatch.setattr(hooks, "find_spec", lambda name: None)
    message = r"TRACKERS names mlflow, which is not installed; run: pip install 'mdf_detectron\[trackers\]'$"
    with pytest.raises(ConfigError, match=message):
        check_trackers(cfg)


def test_the_command_says_what_to_install_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hooks, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="TRACKERS names wandb, which is not installed"):
        main(["--config-file", "synthetic_cxr/mdf_net.yaml", "TRACKERS", '["wandb"]'])
    assert os.listdir(tmp_path) == []
