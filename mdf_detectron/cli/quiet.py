"""Suppress known third-party messages in command lines, each matched by its exact text."""

from __future__ import annotations

import functools
import logging
import multiprocessing
import sys
import threading
import warnings

from mdf_detectron.errors import UserError, is_lost_peer


def _is_one_line(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return error is not None and (isinstance(error, UserError) or is_lost_peer(error))


def _of_the_event_writer(args: threading.ExceptHookArgs) -> bool:
    return isinstance(args.exc_value, OSError) and type(args.thread).__name__ == "_EventLoggerThread"


def _nobody_listens(error: BaseException) -> bool:
    return isinstance(error, (ConnectionError, EOFError)) and multiprocessing.parent_process() is not None


@functools.cache
def suppress_known_messages() -> None:
    """Add the filters to this process, at the start of a program."""
    # detectron2's anchor generator calls torch.meshgrid without `indexing`; its result is what torch will keep.
    warnings.filterwarnings("ignore", message="torch.meshgrid: in an upcoming release", category=UserWarning)
    # torch renames an option of DistributedDataParallel; older releases know the old name only.
    warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
    # a hint about speed: gradients of depthwise convolutions in channels_last are copied into DistributedDataParallel's
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides", category=UserWarning)
    # detectron2.layers asks torch.fx.is_fx_tracing, which newer releases announce as renamed.
    logging.getLogger("torch.fx._symbolic_trace").addFilter(lambda r: "is_fx_tracing will return" not in r.getMessage())
    # detectron2's log of the environment asks torch for CUDA_HOME, which warns where a compiler but no GPU is found.
    logging.getLogger("torch.utils.cpp_extension").addFilter(lambda r: "No CUDA runtime is found" not in r.getMessage())
    # detectron2's train loop logs the traceback of every error; a command line tells a user's error in one line.
    logging.getLogger("detectron2.engine.train_loop").addFilter(lambda r: not _is_one_line(r))
    # On a full disk TensorBoard's thread ends with a traceback, and each line of a log file prints one: the training
    # itself ends with one line at its next write.
    logging.raiseExceptions = False
    told = threading.excepthook
    threading.excepthook = lambda args: None if _of_the_event_writer(args) else told(args)
    # A loader's worker hands tensors over from a thread, and the training that it works for has been stopped.
    hook = sys.excepthook
    sys.excepthook = lambda kind, error, trace: None if _nobody_listens(error) else hook(kind, error, trace)
