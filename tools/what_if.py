#!/usr/bin/env python3
"""Change values of one study's clinical record and see each finding move; explain findings by columns.

The same as `mdf whatif`; --help says more.
"""

from mdf_detectron.cli import run

if __name__ == "__main__":
    run("whatif")
