"""Check a prepared folder: is it sound, do its splits share patients or images?  Exit status 1 if anything is wrong.

mdf audit datasets/mimic_eye
"""

import argparse
from collections import defaultdict

from mdf_detectron.cli.arguments import prepared_folder


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return 1 if the folder has a problem."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=prepared_folder, help="a prepared folder")
    parser.add_argument("--num-workers", type=int, default=2, help="threads that read the images (%(default)s)")
    parser.add_argument("--list", type=int, default=20, help="problems of a kind that are printed (%(default)s)")
    args = parser.parse_args(argv)
    from mdf_detectron.data.audit import audit_folder

    audit = audit_folder(args.folder, args.num_workers)
    by_kind = defaultdict(list)
    for problem in audit.problems:
        by_kind[problem.kind].append(problem.message)
    for kind, messages in by_kind.items():
        print(f"{kind}: {len(messages)}")
        print("".join(f"  {message}\n" for message in messages[: args.list]), end="")
        if len(messages) > args.list:
            print(f"  … and {len(messages) - args.list} more (--list {len(messages)} prints all)")
    for text in audit.unchecked:
        print(f"not checked: {text}")
    print(f"{args.folder}: {'FAILS' if audit.problems else 'passes'}")
    return 1 if audit.problems else 0
