"""Record dependence of a trained model: its score when columns belong to another patient, or records are removed.

python tools/record_dependence.py --config-file configs/synthetic_cxr/mdf_net.yaml --out output/record_dependence \
    MODEL.WEIGHTS output/synthetic_cxr/mdf_net/model_final.pth
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mdf_detectron.checkpoint.checkpointer import load_model
from mdf_detectron.data.loaders import records_of
from mdf_detectron.engine.defaults import setup_cfg
from mdf_detectron.engine.trainer import check_datasets
from mdf_detectron.errors import ConfigError
from mdf_detectron.evaluation.record_dependence import record_dependence
from mdf_detectron.fileio import markdown_table, write_figure, write_json, write_text
from mdf_detectron.inference.evaluation import score_records
from mdf_detectron.report.curves import record_dependence_chart


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--dataset", help="registered dataset (default: the config's first test dataset)")
    parser.add_argument("--metric", default="bbox_iobb/AP50", help="task/metric (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="permutations of each kind (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config overrides, MODEL.WEIGHTS among them")
    args = parser.parse_args(argv)
    if args.repeats < 1:
        parser.error("--repeats must be at least 1")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    cfg = setup_cfg(args)
    columns = [*cfg.MODEL.CLINICAL.NUMERIC, *cfg.MODEL.CLINICAL.CATEGORICAL]
    if not columns or not (cfg.MODEL.CLINICAL.FUSION_3D or cfg.MODEL.CLINICAL.FUSION_1D):
        raise ConfigError(f"{args.config_file}: the model reads no clinical column, so it cannot depend on one")
    if not cfg.MODEL.WEIGHTS:
        raise ConfigError("a trained model is needed: add MODEL.WEIGHTS path/to/model_final.pth")
    dataset = args.dataset or cfg.DATASETS.TEST[0]
    check_datasets(cfg, (dataset,))
    records, model = records_of([dataset]), load_model(cfg, cfg.MODEL.WEIGHTS)
    unchanged, changes = record_dependence(
        records,
        lambda changed: score_records(cfg, model, dataset, list(changed), args.metric),
        columns=columns,
        repeats=args.repeats,
        seed=args.seed,
    )
    save(args, dataset, len(records), unchanged, changes)


def save(args, dataset: str, images: int, unchanged: float, changes) -> None:
    """Write ``record_dependence.{json,md,png}``."""
    rows = [{"change": c.change, "mean_loss": c.mean_loss, "scores": c.scores, "losses": c.losses} for c in changes]
    found = {"dataset": dataset, "images": images, "metric": args.metric, "unchanged": unchanged, "changes": rows}
    write_json(args.out / "record_dependence.json", found)
    table = [(c.change, f"{c.mean_loss:+.1f}", f"{min(c.losses):+.1f} … {max(c.losses):+.1f}") for c in changes]
    text = (
        f"# Record dependence on {dataset}\n\n{args.metric} with unchanged records: {unchanged:.1f} "
        f"({images} images). Loss when a column's values, or whole records, belong to another patient "
        f"({args.repeats} permutation(s)), and when the records are removed:\n\n"
        f"{markdown_table(('change', 'mean loss', 'range'), table)}\n![losses](record_dependence.png)\n"
    )
    write_text(args.out / "record_dependence.md", text)
    write_figure(args.out / "record_dependence.png", record_dependence_chart(unchanged, changes, args.metric))
    print(text)
