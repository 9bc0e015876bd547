#!/usr/bin/env python3
"""Weights of Detectron2's model zoo (.pkl) → a .pth file for MODEL.WEIGHTS of a config with Detectron2's backbone.

python tools/convert_zoo_weights.py R-50.pkl output/R-50.pth
python tools/train_net.py --config-file configs/mimic_eye/mdf_net_resnet50_fpn.yaml MODEL.WEIGHTS output/R-50.pth \
    MODEL.RESNETS.NORM FrozenBN MODEL.BACKBONE.FREEZE_AT 2

The file is read without executing code from it. Detector parts of another shape are left out when it is loaded, and
Detectron2's log names them.
"""

from mdf_detectron.cli import run

if __name__ == "__main__":
    run("convert-weights")
