#!/usr/bin/env python3
"""Write a model as ONNX or TorchScript, and compare it with the original.

The same as `mdf export`; --help says more.
"""

from mdf_detectron.cli import run

if __name__ == "__main__":
    run("export")
