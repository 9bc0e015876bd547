"""Decode the images of a config's data sets once; trainings with the same size and folder read them from there.

mdf cache --config-file mimic_eye/mdf_net.yaml DATALOADER.DECODED_CACHE /fast/disk/decoded
"""

import argparse

from mdf_detectron.cli.arguments import config_file
from mdf_detectron.errors import ConfigError


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, type=config_file, metavar="FILE", help="path, or a name of the "
                        "model zoo")  # fmt: skip
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE overrides of the config")
    args = parser.parse_args(argv)
    from mdf_detectron.data.loaders import make_caches
    from mdf_detectron.engine.run import setup_cfg

    cfg = setup_cfg(args)
    if not cfg.DATALOADER.DECODED_CACHE:
        raise ConfigError("the config names no folder: add DATALOADER.DECODED_CACHE FOLDER")
    for cache in make_caches(cfg, (*cfg.DATASETS.TRAIN, *cfg.DATASETS.VAL, *cfg.DATASETS.TEST)):
        print(f"{cache.path}: {len(cache)} images, {cache.path.stat().st_size / 2**20:.1f} MiB")
