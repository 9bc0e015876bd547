"""``python -m mdf_detectron``: the command ``mdf``."""

from mdf_detectron.cli import main

if __name__ == "__main__":
    main()
