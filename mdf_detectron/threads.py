"""How the threads of the numerical libraries wait for each other; imports nothing that loads OpenMP."""

from __future__ import annotations

import os
import sys


def wait_passively() -> None:
    """Let OpenMP's threads sleep while they wait, where the user has not set ``OMP_WAIT_POLICY``.

    By default they spin, which takes the processor from whatever else runs on it: on a busy machine a training then
    takes 2 to 20 times as long. OpenMP reads the variable when it is loaded, so that behind ``import torch`` this does
    nothing.
    """
    if "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
