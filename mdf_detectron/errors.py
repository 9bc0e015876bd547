"""Errors that a user can correct; commands print each as one line without a traceback."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

_LONG_WORD = re.compile(r"[^\s/]{120,}")
_LINE_END = re.compile(r"[\r\n]+(?!  )")
_LONGEST_WORD, _LONGEST_LINE = 101, 600


def cut(text: str, longest: int) -> str:
    """Shorten a text to at most ``longest`` characters by replacing its middle with an ellipsis."""
    head = (longest - 1) * 2 // 3
    return text if len(text) <= longest else f"{text[:head]}…{text[head + 1 - longest :]}"


class UserError(Exception):
    """Input, configuration or environment that the user can correct; the message says where and how.

    A data loader re-raises a worker's error with the worker's traceback in the message; this keeps the message only.
    """

    def __init__(self, message: object = "") -> None:
        text = str(message)
        if text.startswith("Caught ") and " in DataLoader worker process " in text.partition("\n")[0]:
            text = text.rpartition(f"{type(self).__module__}.{type(self).__qualname__}: ")[2].strip()
        text = _LINE_END.sub(" ", text)  # line ends within names and values; the lines of a list are indented
        text = _LONG_WORD.sub(lambda word: cut(word[0], _LONGEST_WORD), text)
        super().__init__("\n".join(cut(line, _LONGEST_LINE) for line in text.split("\n")))


class ConfigError(UserError, ValueError):
    """A config file, key or value that cannot be used."""


class CheckpointError(UserError, RuntimeError):
    """A checkpoint that cannot be read safely or does not belong to this model."""


class DatasetError(UserError, ValueError):
    """A prepared folder, annotation file, schema or clinical record that is missing or broken."""


class ImageReadError(UserError, OSError):
    """An image file that is missing or cannot be decoded."""


class ResultsError(UserError, ValueError):
    """Predictions, metrics or a training log that are missing or broken."""


class SourceDataError(UserError, ValueError):
    """A collection's table, annotation or image that is missing or broken; the message names file and row."""


class LostPeerError(UserError, ConnectionError):
    """A process of a distributed training that has ended or never connected."""


_OF_AN_EXCHANGE = re.compile(r"gloo|NCCL|TCPStore|Connection (closed|reset) by peer")
_PEER_HAS_ENDED = re.compile(
    r"connection (was |is )?(closed|reset|refused|abort)|no route to host|broken pipe|failed to (recv|connect)"
    r"|remote process exited|timed out|timeout|communicator was aborted|ncclRemoteError",
    re.IGNORECASE,
)


def is_lost_peer(error: BaseException) -> bool:
    """Tell whether an error from torch.distributed means that another process has ended or cannot be reached."""
    if isinstance(error, LostPeerError):
        return True
    of_torch = any(kind.__name__ == "DistError" for kind in type(error).__mro__)
    text = str(error).partition("Exception raised from")[0]  # without the C++ stack
    if not (of_torch or (isinstance(error, RuntimeError) and _OF_AN_EXCHANGE.search(text))):
        return False
    return _PEER_HAS_ENDED.search(text) is not None


def exchange_cause(error: BaseException) -> str:
    """Return the first line of a torch.distributed error and NCCL's last error, on one line."""
    text = str(error).strip() or type(error).__name__
    first, (_, _, last) = text.splitlines()[0], text.partition("Last error:")
    return "; ".join(cut(" ".join(line.split()), 200) for line in (first, *last.strip().splitlines()[:1]))


class TrainingDivergedError(UserError, FloatingPointError):
    """A loss that is not finite; the message names losses, iteration and the images of the batch."""


def find_doubled(names: Iterable[str]) -> list[str]:
    """Return the names that appear more than once, in order of appearance."""
    return [name for name, count in Counter(names).items() if count > 1]


LONGEST = 80
"""Maximum number of characters that a message shows of a value."""


def shorten(value: Any, longest: int = LONGEST) -> str:
    """Return ``repr(value)`` on one line, cut to ``longest`` characters by :func:`cut`."""
    if isinstance(value, (str, bytes)) and len(value) > 2 * longest:  # never build the repr of a huge value
        value = value[:longest] + value[-longest:]
    elif isinstance(value, (list, tuple)) and len(value) > longest:
        value = [*value[:longest], *value[-longest:]]
    return cut(" ".join(repr(value).split()), longest)


def short_text(error: BaseException, longest: int = 160) -> str:
    """Return an error's text, or its class name if it has none, on one line of at most ``longest`` characters."""
    return cut(" ".join(str(error).split()) or type(error).__name__, longest)
