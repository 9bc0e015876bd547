"""Show a training on the console in a few lines; ``log.txt`` holds everything."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from tqdm import tqdm


class _Lines(logging.Handler):
    """Print this package's messages and others' warnings, above a progress bar."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= (logging.INFO if record.name.startswith("mdf_detectron") else logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record))


@contextmanager
def training_logs(folder: str, *, verbose: bool) -> Iterator[None]:
    """For a block, log everything to ``<folder>/log.txt``, and to the console what a reader needs, or all.

    Detectron2's ``default_setup`` makes the same calls for its loggers; they are cached.
    """
    own, lines, rank = logging.getLogger("mdf_detectron"), _Lines(), comm.get_rank()
    others = [setup_logger(folder, distributed_rank=rank, name="fvcore"), setup_logger(folder, distributed_rank=rank)]
    before = [(logger, logger.handlers[:], logger.level) for logger in (own, *others)]
    for logger in others:
        of_console = {h for h in logger.handlers if not verbose and getattr(h, "stream", None) is sys.stdout}
        logger.handlers[:] = dict.fromkeys(lines if h in of_console else h for h in logger.handlers)
    own.handlers += others[1].handlers
    own.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, handlers, level in before:
            logger.handlers[:] = handlers
            logger.setLevel(level)


class ProgressBar(HookBase):
    """Show step, loss and time left in one line."""

    def before_train(self) -> None:
        self._bar = tqdm(desc="training", total=self.trainer.max_iter, initial=self.trainer.start_iter, unit="step",
                         mininterval=0.5 if sys.stderr.isatty() else 30)  # fmt: skip

    def after_step(self) -> None:
        loss = self.trainer.storage.latest().get("total_loss")
        self._bar.set_postfix_str(f"loss {loss[0]:.3f}" if loss else "", refresh=False)
        self._bar.update()

    def after_train(self) -> None:
        self._bar.close()
