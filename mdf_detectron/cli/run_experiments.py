"""Run a study: the trainings of a plan (variants, seeds, folds), and one report of what they show.

    mdf experiments does_it_help --dataset datasets/own --config own.yaml --dry-run
    mdf experiments does_it_help --dataset datasets/own --config own.yaml --out output/does_it_help --jobs 2
    mdf experiments paper --out output/paper --slurm slurm_partition=gpu gpus_per_node=1 timeout_min=1440

The plan is one of the package's (does_it_help, fusions, paper) or a YAML file. The same command continues where a study
was stopped; finished trainings are kept, a failed one is tried again. Writes OUT/report.html, report.md and study.json.
"""

import argparse
from pathlib import Path
from typing import Any

from mdf_detectron.child_processes import when_stopped
from mdf_detectron.errors import ConfigError
from mdf_detectron.fileio import find_config_file


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", help="name of one of the package's plans, or a YAML file")
    parser.add_argument("--dataset", help="prepared folder, by path or name (default: the plan's)")
    parser.add_argument("--config", help="config of the variants that name none (default: the plan's)")
    parser.add_argument("--out", type=Path, help="default: output/studies/<plan>")
    parser.add_argument("--seeds", nargs="+", type=int, help="instead of the plan's")
    parser.add_argument("--folds", nargs="+", help="numbers, or all, instead of the plan's")
    parser.add_argument("--variants", nargs="+", metavar="NAME", help="train only these now; the report shows all")
    parser.add_argument(
        "--jobs", type=int, default=1, help="trainings at a time on this machine (default: %(default)s)"
    )
    parser.add_argument(
        "--slurm",
        nargs="*",
        metavar="KEY=VALUE",
        help="run as jobs through submitit, with its options; cluster=local tries it without Slurm",
    )
    parser.add_argument("--dry-run", action="store_true", help="print trainings, hours and disk, and start nothing")
    parser.add_argument("--report-only", action="store_true", help="report what is there")
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap resamples (default: %(default)s)")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="last: config overrides of every training")
    args = parser.parse_args(argv)
    if args.jobs < 1 or args.resamples < 1:
        parser.error("--jobs and --resamples must be at least 1")
    return args


def changes_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return the plan keys that the command line overrides."""
    changes = {key: getattr(args, key) for key in ("dataset", "config", "seeds") if getattr(args, key)}
    if args.folds:
        numbers = all(word.isdigit() for word in args.folds)
        changes["folds"] = [int(word) for word in args.folds] if numbers else " ".join(args.folds)
    return changes


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)

    from mdf_detectron.experiments.plan import read_plan, with_columns

    plan = read_plan(args.plan, changes_of(args))
    for variant in plan.variants:
        find_config_file(variant.config)

    from mdf_detectron.config_checks import check_device
    from mdf_detectron.data.catalog import register_all
    from mdf_detectron.engine.trainer import check_datasets
    from mdf_detectron.evaluation.coco import GroundTruth
    from mdf_detectron.evaluation.power import answer_in_words, smallest_difference
    from mdf_detectron.experiments.cost import plan_cost
    from mdf_detectron.experiments.launch import left_to_do, parse_cluster_options, run_cluster, run_processes
    from mdf_detectron.experiments.study_data import open_study_data
    from mdf_detectron.experiments.trainings import check_results_folder, make_trainings, read_results
    from mdf_detectron.modeling.pretrained import fetch_pretrained

    register_all()
    data = open_study_data(plan.dataset, plan.folds)
    plan = with_columns(plan, data.schema.names)
    out = args.out or Path("output/studies") / plan.name
    trainings = make_trainings(plan, data, out, args.opts)
    check_results_folder(out, trainings)
    names = [variant.name for variant in plan.variants]
    if unknown := sorted(set(args.variants or ()) - set(names)):
        raise ConfigError(f"--variants: there is no variant '{unknown[0]}'; there are {', '.join(names)}")
    chosen = [t for t in trainings if not args.variants or t.variant in args.variants]
    for training in chosen if args.slurm is None else ():
        if "MODEL.DEVICE" in training.opts:  # Detectron2's default gives way to the CPU
            check_device(training.cfg.MODEL.DEVICE)
    if not args.dry_run:
        print(f"{len(trainings)} trainings: {len(names)} variants × seeds {plan.seeds}"
              f"{f' × folds {list(data.splits)}' if len(data.splits) > 1 else ''}, on {data.root}")  # fmt: skip
    if not args.report_only:
        if not args.dry_run:
            fetch_pretrained(t.cfg for t in chosen if t.scores() is None and not any(t.folder.glob("*.pth")))
        for fold in data.splits:
            first = next(training for training in trainings if training.fold == fold)
            check_datasets(first.cfg, tuple(data.dataset_names(fold).values()))
    if args.dry_run:
        table, text = plan_cost(chosen, [t for t in chosen if not t.is_complete], data, args.jobs)
        truths = {fold: GroundTruth.load(splits["test"]) for fold, splits in data.splits.items()}
        of = f", seeds {plan.seeds}" if len(plan.seeds) > 1 else ", one seed (the chance of training left out)"
        words = answer_in_words(truths, smallest_difference(truths, len(plan.seeds)), of, data.patients_to_test)
        print(f"{table.to_markdown()}\n\n{text}\n{words}")
        return 0
    if not args.report_only:
        left = left_to_do(chosen)
        kept = f"what is trained is kept in {out}; run the same command again to continue"
        with when_stopped(lambda text: f"{text}; {kept}"):
            if args.slurm is not None:
                run_cluster(left, data, out, *parse_cluster_options(args.slurm))
            else:
                run_processes(left, data, args.jobs)
    results = read_results(plan, data, trainings)
    from mdf_detectron.experiments.report import write_study_report  # draws: slow to import

    page = write_study_report(out, results, args.resamples)
    failed = [run for run in results.runs if run.failure.startswith("failed")]
    for run in failed:
        print(f"{run.training.label}: {run.failure}")
    finished = sum(run.scores is not None for run in results.runs)
    print(f"{finished} of {len(trainings)} trainings finished; report: {page}")
    return 1 if failed else 0
