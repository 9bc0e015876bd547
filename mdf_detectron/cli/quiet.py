"""Suppress known third-party messages in command lines, each matched by its exact text."""

from __future__ import annotations

import logging
import warnings

from mdf_detectron.errors import UserError


def _is_user_error(record: logging.LogRecord) -> bool:
    return bool(record.exc_info) and isinstance(record.exc_info[1], UserError)


def suppress_known_messages() -> None:
    """Add the filters to this process; call it once, at the start of a program."""
    # detectron2's anchor generator calls torch.meshgrid without `indexing`; its result is what torch will keep.
    warnings.filterwarnings("ignore", message="torch.meshgrid: in an upcoming release", category=UserWarning)
    # detectron2.layers asks torch.fx.is_fx_tracing, which newer releases announce as renamed.
    logging.getLogger("torch.fx._symbolic_trace").addFilter(lambda r: "is_fx_tracing will return" not in r.getMessage())
    # detectron2's log of the environment asks torch for CUDA_HOME, which warns where a compiler but no GPU is found.
    logging.getLogger("torch.utils.cpp_extension").addFilter(lambda r: "No CUDA runtime is found" not in r.getMessage())
    # detectron2's train loop logs the traceback of every error; a command line tells a user's error in one line.
    logging.getLogger("detectron2.engine.train_loop").addFilter(lambda r: not _is_user_error(r))
