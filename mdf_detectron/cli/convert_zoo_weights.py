"""Weights of Detectron2's model zoo (.pkl) → a .pth file for MODEL.WEIGHTS of a config with Detectron2's backbone.

python tools/convert_zoo_weights.py R-50.pkl output/R-50.pth
python tools/train_net.py --config-file configs/mimic_eye/mdf_net_resnet50_fpn.yaml MODEL.WEIGHTS output/R-50.pth \
    MODEL.RESNETS.NORM FrozenBN MODEL.BACKBONE.FREEZE_AT 2

The file is read without executing code from it. Detector parts of another shape are left out when it is loaded, and
Detectron2's log names them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mdf_detectron.checkpoint.checkpointer import for_dual_backbone, read_zoo_weights, save_checkpoint_file
from mdf_detectron.errors import CheckpointError


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="IN.pkl")
    parser.add_argument("target", type=Path, metavar="OUT.pth")
    parser.add_argument("--input-channels", type=int, choices=(1, 3), default=3, help="1 for INPUT.FORMAT L")
    args = parser.parse_args(argv)
    state, dropped = for_dual_backbone(read_zoo_weights(args.source), args.input_channels)
    if not state:
        raise CheckpointError(f"{args.source} has no weights of a ResNet or a detector, but {dropped[:5]}")
    args.target.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint_file({"model": state}, args.target)
    print(f"{args.target}: {len(state)} tensors; left out: {dropped or 'none'}")
