"""Draw what the mapper feeds the model: image, boxes, masks and the clinical record.

tools/visualize_data.py --config-file configs/synthetic_cxr/mdf_net.yaml --out output/look --num-images 8
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from detectron2.structures import Instances, PolygonMasks
from detectron2.utils.visualizer import GenericMask
from tqdm import tqdm

from mdf_detectron.data.loaders import build_loss_mapper, dataset_classes, model_schema, records_of
from mdf_detectron.data.mapper import MultimodalDatasetMapper
from mdf_detectron.data.readers import to_eight_bits
from mdf_detectron.engine.defaults import default_argument_parser, setup_cfg
from mdf_detectron.report.images import Panel, record_text, save_panels


def polygons_of(instances: Instances) -> list[list[list[float]]]:
    """Polygons of each ground-truth mask, of bitmaps their outlines; empty without masks."""
    if not instances.has("gt_masks"):
        return []
    masks = instances.gt_masks
    if isinstance(masks, PolygonMasks):
        return masks.polygons
    return [GenericMask(one.numpy().astype(np.uint8), *instances.image_size).polygons for one in masks.tensor]


def main(argv: list[str] | None = None) -> None:
    parser = default_argument_parser(epilog=__doc__)
    parser.add_argument("--out", required=True, help="folder for the pictures")
    parser.add_argument("--num-images", type=int, default=8, help="how many records, from the first on")
    parser.add_argument("--split", choices=("train", "test"), default="train", help="DATASETS.TRAIN or DATASETS.TEST")
    args = parser.parse_args(argv)
    cfg = setup_cfg(args)
    name = (cfg.DATASETS.TRAIN if args.split == "train" else cfg.DATASETS.TEST)[0]
    records = records_of([name])[: args.num_images]
    schema, classes = model_schema(cfg, name), dataset_classes(name)
    training = args.split == "train"
    mapper = MultimodalDatasetMapper(cfg, is_train=True, schema=schema) if training else build_loss_mapper(cfg, name)
    for number, record in enumerate(tqdm(records, desc="drawing", unit="image")):
        mapped = mapper(record)
        instances = mapped["instances"]
        panel = Panel(
            title=f"{name} {number}: the model's input",
            boxes=instances.gt_boxes.tensor.tolist(),
            classes=instances.gt_classes.tolist(),
            polygons=polygons_of(instances),
        )
        image = to_eight_bits(mapped["image"].numpy().transpose(1, 2, 0))
        row = {n: record["clinical"].get(n) for n in schema.names}
        save_panels(Path(args.out) / f"{name}_{number:04d}.png", image, [panel], classes,
                    record_text(schema, row))  # fmt: skip
    print(f"{len(records)} pictures in {args.out}")
