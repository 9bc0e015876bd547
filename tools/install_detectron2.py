#!/usr/bin/env python3
"""Install detectron2 0.6 from PyPI alone: no compiler, no GitHub.

An installed detectron2 is left alone.  Otherwise the pure-Python copy of detectron2 0.6 (Apache-2.0) that
the PyPI package LabGym ships is taken out of its wheel, given its own name back, and installed as an ordinary
distribution that ``pip show detectron2`` knows.  The rest of LabGym (GPL-3.0) is neither kept nor installed.
The compiled extension ``detectron2._C`` is not part of it: rotated boxes and deformable convolution are absent,
and mdf_detectron uses neither.

Standard library only, so that it runs before anything else is installed.
"""

from mdf_detectron.cli import run

if __name__ == "__main__":
    run("install-detectron2")
