"""Draw what the mapper feeds the model: image, boxes, masks and the clinical record.

mdf visualize --config-file synthetic_cxr/mdf_net.yaml --out output/look --num-images 8
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mdf_detectron.cli.arguments import config_file

if TYPE_CHECKING:
    from detectron2.structures import Instances


def polygons_of(instances: Instances) -> list[list[list[float]]]:
    """Return the polygons of each ground-truth mask (outlines of bitmap masks); empty without masks."""
    from detectron2.structures import PolygonMasks
    from detectron2.utils.visualizer import GenericMask

    if not instances.has("gt_masks"):
        return []
    masks = instances.gt_masks
    if isinstance(masks, PolygonMasks):
        return masks.polygons
    return [GenericMask(one.numpy().astype("uint8"), *instances.image_size).polygons for one in masks.tensor]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, type=config_file, metavar="FILE")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the pictures")
    parser.add_argument("--num-images", type=int, default=8, help="from the first on (%(default)s)")
    parser.add_argument("--split", choices=("train", "test"), default="train", help="DATASETS.TRAIN or DATASETS.TEST")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE overrides of the config")
    args = parser.parse_args(argv)
    from mdf_detectron.data.loaders import build_loss_mapper, dataset_classes, model_schema, records_of
    from mdf_detectron.data.mapper import MultimodalDatasetMapper
    from mdf_detectron.data.readers import to_eight_bits
    from mdf_detectron.engine.run import setup_cfg
    from mdf_detectron.report.images import Panel, record_text, save_panels

    cfg = setup_cfg(args)
    training = args.split == "train"
    name = (cfg.DATASETS.TRAIN if training else cfg.DATASETS.TEST)[0]
    records = records_of([name])[: args.num_images]
    schema, classes = model_schema(cfg, name), dataset_classes(name)
    mapper = MultimodalDatasetMapper(cfg, is_train=True, schema=schema) if training else build_loss_mapper(cfg, name)
    for number, record in enumerate(records):
        mapped = mapper(record)
        instances = mapped["instances"]
        panel = Panel(
            title=f"{name} {number}: the model's input",
            boxes=instances.gt_boxes.tensor.tolist(),
            classes=instances.gt_classes.tolist(),
            polygons=polygons_of(instances),
        )
        image = to_eight_bits(mapped["image"].numpy().transpose(1, 2, 0))
        path = Path(args.out) / f"{name}_{number:04d}.png"
        save_panels(path, image, [panel], classes, record_text(schema, record["clinical"]))
    print(f"{len(records)} pictures in {args.out}")
