"""Run ``mdf COMMAND``.

Each command is a module of this package with ``main(argv)``, imported when it runs. ``main`` imports torch, Detectron2
and modules that need them only after parsing its arguments, so --help, typos and missing files are answered at once.
"""

import errno
import functools
import importlib
import logging
import multiprocessing
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mdf_detectron import INSTALL_HINTS, __version__
from mdf_detectron.child_processes import end_with_caller, stop_in_one_line
from mdf_detectron.cli.arguments import check_name, listing
from mdf_detectron.errors import UserError, is_lost_peer
from mdf_detectron.fileio import shorten_path

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


class Command(NamedTuple):
    """Module of this package with ``main(argv)``, and one line of help."""

    module: str
    help: str


COMMANDS = {
    "train": Command("train", "train or evaluate a model by config"),
    "evaluate": Command("evaluate", "score saved predictions, compare two models"),
    "publish": Command("publish", "one verified file to hand on, with thresholds, results and a model card"),
    "late-fusion": Command("late_fusion", "add the record to any detector's results, without training"),
    "predict": Command("predict", "findings of new images and records, from a checkpoint alone"),
    "whatif": Command("whatif", "findings of one image with another record; what each column contributes"),
    "serve": Command("serve", "web page: an image and a form in, findings with and without the record out"),
    "export": Command("export_model", "ONNX or TorchScript, for programs without Detectron2"),
    "describe": Command("describe_dataset", "look at a prepared folder: boxes, columns, duplicates, as one page"),
    "init": Command("make_config", "propose a config for a prepared folder, with reasons"),
    "audit": Command("audit_dataset", "check a prepared folder for leaks and broken entries"),
    "cache": Command("cache_images", "decode the images of a config's data sets once, for many trainings"),
    "visualize": Command("visualize_data", "draw what the mapper feeds the model"),
    "analyze": Command("analyze_model", "count parameters and operations by part"),
    "experiments": Command("run_experiments", "run a study: variants, seeds and folds of a plan, and one report"),
    "demo": Command("demo", "make synthetic data, train two models, compare them"),
    "weights": Command("trunk_weights", "ImageNet weights of EfficientNet-Lite or of the paper's trunk, as a file"),
    "install-detectron2": Command("install_detectron2", "install detectron2 from PyPI alone"),
    "prepare": Command("prepare", "prepare a data set: your own, the synthetic one or a public collection"),
}
"""Command name → command; a new command is one line here and one module."""


def main(argv: Sequence[str] | None = None) -> None:
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return
    if words[0] in ("-V", "--version"):
        print(f"mdf_detectron {__version__}")
        return
    try:
        check_name(words[0], COMMANDS, "mdf has no command")
    except UserError as error:
        sys.exit(f"error: {error}")
    run(words[0], words[1:])


def usage() -> str:
    """Return the text of ``mdf --help``."""
    lines = listing({name: command.help for name, command in COMMANDS.items()})
    return "\n".join(["usage: mdf COMMAND ...", "", *lines, "", "mdf COMMAND --help explains a command."])


def run(name: str, argv: Sequence[str] | None = None) -> None:
    """Run a command with ``argv``, or the program's own arguments; a user error ends it with one line and status 1."""
    if argv is not None:
        sys.argv = [f"mdf {name}", *argv]
    run_main(lambda words: importlib.import_module(f"mdf_detectron.cli.{COMMANDS[name].module}").main(words))


def run_main(main: Callable[[list[str]], int | None]) -> None:
    """Run ``main`` with the program's arguments; errors are handled as in :func:`run`."""
    suppress_known_messages()
    end_with_caller()
    with stop_in_one_line():
        _run_guarded(main)


def _run_guarded(main: Callable[[list[str]], int | None]) -> None:
    try:
        status = main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
    except OSError as error:  # no permission, full disk, file removed meanwhile
        where = f"{shorten_path(str(error.filename))}: " if error.filename else ""
        if error.errno in _DISK_ERRORS:
            sys.exit(f"error: {where}cannot be written ({error.strerror}); make room, then run the same command again")
        if not where:
            raise
        sys.exit(f"error: {where}{error.strerror}")
    except ModuleNotFoundError as error:
        hint = INSTALL_HINTS.get(error.name or "")
        if hint is None:
            raise
        sys.exit(f"error: this command needs {error.name}: {hint}")
    if status:
        sys.exit(status)


def _is_one_line(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return error is not None and (isinstance(error, UserError) or is_lost_peer(error))


def _of_the_event_writer(args: threading.ExceptHookArgs) -> bool:
    return isinstance(args.exc_value, OSError) and type(args.thread).__name__ == "_EventLoggerThread"


def _nobody_listens(error: BaseException) -> bool:
    return isinstance(error, (ConnectionError, EOFError)) and multiprocessing.parent_process() is not None


@functools.cache
def suppress_known_messages() -> None:
    """Suppress known third-party messages in this process, once, each matched by its exact text."""
    # detectron2's anchor generator calls torch.meshgrid without `indexing`; the result is the intended one.
    warnings.filterwarnings("ignore", message="torch.meshgrid: in an upcoming release", category=UserWarning)
    # torch renamed an option of DistributedDataParallel; older releases know only the old name.
    warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
    # A performance hint only: DistributedDataParallel copies the channels_last gradients of depthwise convolutions.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides", category=UserWarning)
    # fvcore's vertical flip makes a tensor of read-only pixels, and only reads them.
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable", category=UserWarning)
    # detectron2.layers calls torch.fx.is_fx_tracing, which newer releases deprecate.
    logging.getLogger("torch.fx._symbolic_trace").addFilter(lambda r: "is_fx_tracing will return" not in r.getMessage())
    # detectron2's environment report reads CUDA_HOME, which warns on machines with nvcc but no GPU.
    logging.getLogger("torch.utils.cpp_extension").addFilter(lambda r: "No CUDA runtime is found" not in r.getMessage())
    # detectron2's train loop logs the traceback of every error; commands report a user error in one line.
    logging.getLogger("detectron2.engine.train_loop").addFilter(lambda r: not _is_one_line(r))
    # On a full disk TensorBoard's thread and every log line print a traceback; the training's next write reports it.
    logging.raiseExceptions = False
    told = threading.excepthook
    threading.excepthook = lambda args: None if _of_the_event_writer(args) else told(args)
    # A loader worker fails to hand over tensors if its training was stopped.
    hook = sys.excepthook
    sys.excepthook = lambda kind, error, trace: None if _nobody_listens(error) else hook(kind, error, trace)
