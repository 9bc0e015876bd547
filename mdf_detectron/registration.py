"""Import every module that registers components with Detectron2."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    # fvcore and detectron2 script small functions when they are imported; newer releases of torch warn about that
    warnings.filterwarnings("ignore", message=".*torch.jit.script.* is deprecated")
    from mdf_detectron import modeling  # noqa: F401
