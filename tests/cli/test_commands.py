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

    def absent(argv):
        raise ModuleNotFoundError("No module named 'detectron2'", name="detectron2")

    with pytest.raises(SystemExit, match="needs detectron2: run `mdf install-detectron2`"):
        cli.run_main(absent)

    def defect(argv):
        raise ModuleNotFoundError("No module named 'x'", name="x")

    with pytest.raises(ModuleNotFoundError):
        cli.run_main(defect)


def test_scripts_name_commands():
    scripts = {}
    for script in [*(REPOSITORY / "tools").glob("*.py"), *(REPOSITORY / "datasets").glob("*.py")]:
        if command := re.search(r'run\("([^"]+)"\)', script.read_text()):
            scripts[script.name] = command[1]
            assert len(script.read_text().splitlines()) < 25
    assert sorted(scripts.values()) == sorted(cli.COMMANDS), "every command has a script, every script a command"
