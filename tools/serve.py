#!/usr/bin/env python3
"""Show a web page: drop an image, fill in the clinical record, see findings with and without it.

The same as `mdf serve`; --help says more.
"""

from mdf_detectron.cli import run

if __name__ == "__main__":
    run("serve")
