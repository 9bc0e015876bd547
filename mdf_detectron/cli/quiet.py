"""Suppress known third-party messages of commands, each matched by its exact text."""

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
    """Install the filters in this process, once."""
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
