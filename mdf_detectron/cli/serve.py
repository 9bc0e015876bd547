"""Show a web page: drop an image, fill in the clinical record, see findings with and without it.

    mdf serve model.pth
    mdf serve model.pth --port 8080

It listens on this machine alone unless --host says otherwise: then it prints an address with a token, without which
nobody is let in. Nothing is stored or logged.
"""

import argparse
from pathlib import Path

from mdf_detectron.cli.arguments import add_model_arguments, checkpoint_file


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", metavar="model.pth", type=checkpoint_file)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=7860, help="(default: %(default)s)")
    parser.add_argument("--name", nargs="+", default=[], help="host names of a server that stands before the page")
    add_model_arguments(parser)
    args = parser.parse_args(argv)
    from mdf_detectron.inference.predictor import Predictor
    from mdf_detectron.serving.page import serve

    predictor = Predictor(args.weights, device=args.device, threshold=args.threshold)
    serve(predictor, host=args.host, port=args.port, title=f"Findings: {Path(args.weights).stem}", names=args.name)
