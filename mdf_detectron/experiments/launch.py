"""Run the trainings of a study as processes on this machine, or as jobs on a cluster through submitit."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mdf_detectron.child_processes import child_environment, end_process
from mdf_detectron.errors import ConfigError, UserError
from mdf_detectron.experiments.study_data import StudyData
from mdf_detectron.experiments.trainings import FAILURE_FILE_NAME, Training
from mdf_detectron.experiments.worker import work
from mdf_detectron.fileio import write_json
from mdf_detectron.threads import free_cores

OUTPUT_FILE_NAME = "output.txt"
JOBS_FOLDER = "jobs"
POLL_SECONDS = 0.2


def left_to_do(trainings: Sequence[Training]) -> list[Training]:
    """Select the unfinished trainings and write their entry files."""
    left = [training for training in trainings if not training.is_complete]
    for training in left:
        training.write_entry()
    return left


def run_processes(trainings: Sequence[Training], data: StudyData, jobs: int) -> None:
    """Run trainings as child processes, ``jobs`` at a time; a failed one does not stop the others.

    The child processes end when this process ends, for whatever reason.
    """
    loader_workers = max((training.cfg.DATALOADER.NUM_WORKERS for training in trainings), default=0)
    environment = child_environment(DETECTRON2_DATASETS=str(data.root.parent))
    environment.setdefault("OMP_NUM_THREADS", str(free_cores(loader_workers, jobs)))
    running: set[subprocess.Popen] = set()
    stop = threading.Event()

    def run(training: Training) -> None:
        if stop.is_set():
            return
        command = [sys.executable, "-m", "mdf_detectron.experiments.worker", str(training.folder)]
        with open(training.folder / OUTPUT_FILE_NAME, "a", encoding="utf-8") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
            running.add(process)
            code = process.wait()
            running.discard(process)
        if code and not stop.is_set():
            ending = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
            note_failure(training, ending, training.folder / OUTPUT_FILE_NAME)

    with ThreadPoolExecutor(jobs) as pool:
        try:
            asked = [pool.submit(run, training) for training in trainings]
            for job in tqdm(as_completed(asked), total=len(asked), desc="trainings", unit="run"):
                job.result()
        except BaseException:
            stop.set()
            for process in list(running):
                end_process(process)
            raise


def note_failure(training: Training, ending: str, log: Path) -> None:
    """Write how a training ended to its folder, unless the worker wrote a reason or scores."""
    path = training.folder / FAILURE_FILE_NAME
    if not path.is_file() and training.scores() is None:
        write_json(path, {"reason": f"{ending}; see {log}"})


class ClusterTraining:
    """The callable of a cluster job; submitit queues it again to continue after a timeout or preemption."""

    def __init__(self, folder: Path, datasets: Path) -> None:
        self.folder, self.datasets = str(folder), str(datasets)

    def __call__(self) -> None:
        os.environ["DETECTRON2_DATASETS"] = self.datasets
        work(self.folder)

    def checkpoint(self) -> Any:
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def run_cluster(
    trainings: Sequence[Training], data: StudyData, out: Path, cluster: str, options: Mapping[str, Any]
) -> None:
    """Run trainings as cluster jobs through submitit and wait for them.

    Args:
        cluster: "slurm", or "local" for submitit's own processes.
        options: of ``AutoExecutor.update_parameters`` (``timeout_min``, ``gpus_per_node``, ``slurm_partition`` …).
    """
    import submitit

    try:
        executor = submitit.AutoExecutor(folder=out / JOBS_FOLDER, cluster=cluster)
        executor.update_parameters(**options)
        with executor.batch():
            jobs = {
                training.label: executor.submit(ClusterTraining(training.folder.resolve(), data.root.parent))
                for training in trainings
            }
    except (NameError, RuntimeError, ValueError, TypeError, submitit.core.utils.FailedJobError) as error:
        raise ConfigError(f"--slurm: {' '.join(str(error).split())}") from None
    by_label = {training.label: training for training in trainings}
    with tqdm(total=len(jobs), desc="jobs", unit="run") as progress:
        while jobs:
            for label, job in [(label, job) for label, job in jobs.items() if job.done()]:
                error = job.exception()
                if error is not None:
                    note_failure(by_label[label], "the job failed", Path(job.paths.stderr))
                del jobs[label]
                progress.update()
            time.sleep(POLL_SECONDS)


def parse_cluster_options(words: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Parse ``--slurm KEY=VALUE ...`` into the cluster ("slurm" without ``cluster=``) and submitit's options."""
    found: dict[str, Any] = {}
    for word in words:
        key, sign, value = word.partition("=")
        if not sign or not key:
            raise UserError(f"--slurm {word}: write KEY=VALUE, for example slurm_partition=gpu timeout_min=720")
        found[key] = int(value) if value.isdigit() else value
    return str(found.pop("cluster", "slurm")), found
