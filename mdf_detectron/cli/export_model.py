"""Write a model as ONNX or TorchScript, for programs without Detectron2, and compare it with the original.

    mdf export --weights model.pth --out model.onnx
    mdf export --weights model.pth --out model.onnx model.ts --images image.png

The file takes any number of images of any size at once. It is written only if its boxes agree to 0.01 pixels and its
scores to 0.0001 with the model's, on random images and records and on --images, none of which it was made with.
"""

import argparse
from pathlib import Path

from mdf_detectron.cli.arguments import checkpoint_file, existing_file


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", metavar="model.pth", type=checkpoint_file, required=True)
    parser.add_argument(
        "--out", metavar="FILE", type=Path, nargs="+", required=True, help=".onnx (ONNX) or .ts (TorchScript)"
    )
    parser.add_argument("--images", metavar="PATH", type=existing_file, nargs="+", default=[],
                        help="images to compare on too")  # fmt: skip
    args = parser.parse_args(argv)
    from mdf_detectron.export.export import export_model, kind_of
    from mdf_detectron.inference.predictor import Predictor

    for path in args.out:
        kind_of(path)
    predictor = Predictor(args.weights, device="cpu")
    batches = [[predictor.prepare(image).model_input] for image in args.images]
    for path in args.out:
        found = export_model(predictor, path, batches)
        print(
            f"{path}: {path.stat().st_size / 2**20:.1f} MiB; on {found['images']} images with {found['detections']} "
            f"detections it differs from the model by at most {found['boxes']:.1e} pixels and {found['scores']:.1e} "
            "in the score"
        )
        if not found["detections"]:
            print("there was no detection to compare; name images with findings with --images")
