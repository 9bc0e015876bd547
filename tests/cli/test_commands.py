"""The command ``mdf``: its table, its errors, and the scripts over it."""

import importlib
import re
from pathlib import Path

import pytest

from mdf_detectron import __version__, cli
from mdf_detectron.errors import UserError

REPOSITORY = Path(__file__).parents[2]


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


@pytest.mark.parametrize(
    ("words", "message"), [(["nope"], "no command 'nope'"), (["prepare", "x"], "prepare synthetic")]
)
def test_unknown_commands(words, message):
    with pytest.raises(SystemExit, match=message):
        cli.main(words)


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


def test_scripts_name_commands():
    """Every script is a few lines over a command, except those that measure this repository."""
    measuring = {"simulate_intervals.py", "crash_test.py", "killed_runs.py", "small_sources.py", "fuzz.py"}
    measuring |= {"make_model_zoo.py", "raw_oracle.py", "write_raw_mimic.py"}
    measuring |= {path.name for path in (REPOSITORY / "tools").glob("benchmark*.py")}
    commands = []
    for script in [*(REPOSITORY / "tools").glob("*.py"), *(REPOSITORY / "datasets").glob("*.py")]:
        if script.name not in measuring:
            text = script.read_text()
            named = re.search(r'run\("([^"]+)"\)', text)
            assert named and len(text.splitlines()) < 25, script.name
            commands.append(named[1])
    assert sorted(commands) == sorted(cli.COMMANDS), "every command has a script, every script a command"
