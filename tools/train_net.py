#!/usr/bin/env python3
"""Train or evaluate a model of mdf_detectron by config, with Detectron2's standard arguments.

tools/train_net.py --config-file configs/synthetic_cxr/mdf_net.yaml
tools/train_net.py --config-file ... --resume
tools/train_net.py --config-file ... --eval-only MODEL.WEIGHTS output/.../model_final.pth
"""

from mdf_detectron.cli import run

if __name__ == "__main__":
    run("train")
