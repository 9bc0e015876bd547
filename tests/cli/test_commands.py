"""The command ``mdf``: its table, its start and its errors."""

import importlib
import resource
import subprocess
import sys

import pytest

from mdf_detectron import __version__, cli
from mdf_detectron.errors import UserError


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_explains_itself(name, capsys):
    module = importlib.import_module(f"mdf_detectron.cli.{cli.COMMANDS[name].module}")
    with pytest.raises(SystemExit) as end:
        module.main(["--help"])
    assert end.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_help_lists_every_command(capsys):
    cli.main([])
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in cli.COMMANDS)
    cli.main(["--version"])
    assert __version__ in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:  # as the other commands without their argument
        cli.main(["prepare"])
    assert end.value.code == 2 and "  vindr " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nope"], "no command 'nope'; there are: train, "),
        (["prepare", "vidr"], "no collection 'vidr'; did you mean vindr[?]$"),
        (["prepare", "x"], "no collection 'x'; there are: own, "),
        (["trian", "--resume"], "no command 'trian'; did you mean train[?]$"),
    ],
)
def test_unknown_commands(words, message):
    with pytest.raises(SystemExit, match=message):
        cli.main(words)


HEAVY = {"torch", "torchvision", "detectron2", "timm", "pandas", "scipy", "matplotlib"}

ABSENT = [
    ["init", "absent"], ["audit", "absent"], ["experiments", "no_plan"],
    ["train", "--config-file", "mdf_nett"], ["analyze", "--config-file", "mdf_nett"],
    ["cache", "--config-file", "mdf_nett"], ["visualize", "--config-file", "mdf_nett", "--out", "out"],
    ["evaluate", "--annotations", "absent", "--predictions", "absent", "--out", "out"],
    ["experiments", "paper", "--config", "mdf_nett"], ["publish", "--weights", "absent", "--out", "out"],
    ["predict", "--weights", "absent", "--images", ".", "--out", "out"], ["serve", "--weights", "absent"],
    ["whatif", "--weights", "absent", "--image", "absent", "--out", "out"],
    ["export", "--weights", "absent", "--out", "out"],
]  # fmt: skip
"""Commands that are told to read what is not there."""

START = f"""
import sys
sys.argv = ["/usr/bin/mdf"]
from mdf_detectron import cli
helps = [[name, "--help"] for name in cli.COMMANDS]
for words in ([], ["--version"], *helps, ["trian"], *{ABSENT}):
    try:
        cli.main(words)
    except SystemExit as end:
        print(words, end.code, file=sys.stderr)
    found = {HEAVY} & set(sys.modules)
    assert not found, (words, found)
from mdf_detectron.config_file import get_mdf_cfg
get_mdf_cfg()
from detectron2.modeling import META_ARCH_REGISTRY
assert "MultimodalRCNN" in META_ARCH_REGISTRY
"""


def test_a_start_imports_nothing_that_is_not_needed(tmp_path):
    """Help, a typo and a missing file need neither torch nor Detectron2; a config that is read finds its components."""
    found = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    *_, typo = (lines := found.stderr.splitlines())[: -len(ABSENT)]
    assert typo.endswith("no command 'trian'; did you mean train?")
    for words, line in zip(ABSENT, lines[-len(ABSENT) :], strict=True):
        message = line.removeprefix(str(words))
        assert message.startswith(" error: ") and any(name in message for name in ("absent", "no_plan", "mdf_nett"))


def test_help_takes_less_than_half_a_second_of_processor_time():
    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "mdf_detectron", "--help"], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 0.5


def test_an_error_of_the_user_is_one_line(monkeypatch):
    def fail(argv):
        raise UserError("file a.csv, line 3: expected a number")

    with pytest.raises(SystemExit, match="^error: file a.csv, line 3: expected a number$"):
        cli.run_main(fail)

    def locked(argv):
        raise PermissionError(13, "Permission denied", "a.png")

    with pytest.raises(SystemExit, match="^error: a.png: Permission denied$"):
        cli.run_main(locked)

    def absent(argv):
        raise ModuleNotFoundError("No module named 'detectron2'", name="detectron2")

    with pytest.raises(SystemExit, match="needs detectron2: run `mdf install-detectron2`"):
        cli.run_main(absent)

    def defect(argv):
        raise ModuleNotFoundError("No module named 'x'", name="x")

    with pytest.raises(ModuleNotFoundError):
        cli.run_main(defect)
