"""The documentation is true: commands parse, config keys and files exist, links lead somewhere, pages stay short."""

import argparse
import re
import shlex
from functools import lru_cache, reduce
from pathlib import Path

import pytest

from mdf_detectron import cli
from mdf_detectron.config_file import get_mdf_cfg, load_config
from mdf_detectron.data.sources import COLLECTIONS
from mdf_detectron.experiments.plan import read_plan
from mdf_detectron.fileio import CONFIGS

REPOSITORY = Path(__file__).parents[1]
PAGES = {
    path.relative_to(REPOSITORY).as_posix(): path.read_text(encoding="utf-8")
    for path in [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md"), *REPOSITORY.glob("datasets/*.md")]
}
PRESENT = {name: text for name, text in PAGES.items() if not name.startswith("docs/experiments/")}  # of the code today
MOST_WORDS = {"README.md": 450, "GETTING_STARTED.md": 1000, "MODEL_ZOO.md": 1200, "SECURITY.md": 400}
KEY = re.compile(r"\b(?:MODEL|SOLVER|INPUT|DATASETS|DATALOADER|TEST|VALIDATION|CLINICAL_DIAGNOSTICS)(?:\.[A-Z\d_]+)+")
FOLDERS = {path.name for path in CONFIGS.iterdir() if path.is_dir()}


class Parser(Exception):
    """Carries the parser that a command would have used."""


@lru_cache(None)
def parser_of(name):
    def stop(self, *_, **__):
        raise Parser(self)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Parser) as found:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        cli.main(name.split())
    for action in (parser := found.value.args[0])._actions:
        if getattr(action.type, "__module__", "") == "mdf_detectron.cli.arguments":
            action.type = None  # it asks whether a file is there
    return parser


def split_command(words):
    """Return a command's name (that of "prepare" with the collection's) and its arguments."""
    count = 1 + (words[0] == "prepare")
    assert words[0] in cli.COMMANDS and (count == 1 or words[1] in COLLECTIONS), f"no command mdf {shlex.join(words)}"
    return " ".join(words[:count]), words[count:]


def commands(text):
    """Lines ``mdf ...`` of the shell blocks, continued lines joined."""
    for block in re.findall(r"```(?:bash|sh)\n(.*?)```", text, re.S):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["mdf"] and words[-1] != "--help":
                yield words[1:]


def key_exists(key):
    return reduce(lambda node, part: getattr(node, part, None), key.split("."), get_mdf_cfg()) is not None


@pytest.mark.parametrize("page", [name for name, text in PAGES.items() if any(commands(text))])
def test_commands_parse(page, capsys):
    for words in commands(PAGES[page]):
        name, arguments = split_command(words)
        try:
            args = vars(parser_of(name).parse_args(arguments))
        except SystemExit:
            pytest.fail(f"mdf {shlex.join(words)}: {capsys.readouterr().err.splitlines()[-1]}")
        config = args.get("config_file") or args.get("config")
        if isinstance(config, str):
            shipped = config if config.split("/")[0] in FOLDERS else "mimic_eye/mdf_net.yaml"
            load_config(shipped, args["opts"])


@pytest.mark.parametrize("page", PRESENT)
def test_names_in_the_text_exist(page):
    text = re.sub(r"```.*?```", "", PRESENT[page], flags=re.S)
    for span in re.findall(r"`([^`\n]+)`", text):
        if span.startswith("mdf ") and span.split()[1] not in ("COMMAND", "prepare", "…", "--help"):
            name, arguments = split_command(span.split()[1:])
            known = parser_of(name)._option_string_actions
            assert not [word for word in arguments if word.startswith("--") and word not in known], span
        for key in KEY.findall(span):
            assert key_exists(key), f"no config key {key}"
    for name in re.findall(r"(?<![\w/.])(?:tools|docs|tests|mdf_detectron|configs/(?!mine))[/\w.-]*\w", PRESENT[page]):
        assert "/" not in name or (REPOSITORY / name).exists(), name


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    folder = (REPOSITORY / page).parent
    for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", PAGES[page]):
        assert (folder / target).exists(), target


@pytest.mark.parametrize(("page", "most"), MOST_WORDS.items())
def test_pages_stay_short(page, most):
    assert len(PAGES[page].split()) <= most


def test_every_page_is_listed():
    for index in ("docs/README.md", "docs/experiments/README.md"):
        folder = (REPOSITORY / index).parent
        unlisted = {path.name for path in folder.glob("*.md")} - set(re.findall(r"\(([\w.-]+\.md)\)", PAGES[index]))
        assert unlisted == {"README.md"}


def test_the_map_names_every_room_and_what_is_there():
    package, text = REPOSITORY / "mdf_detectron", PAGES["CONTRIBUTING.md"]
    rooms = [path.parent.name for path in package.glob("*/__init__.py")]
    assert [room for room in rooms if f"\n  {room}/ " not in text] == []
    names = re.findall(r"(?<![\w/.])(?:[a-z]+/)*[a-z_]+\.(?:py|yaml)|`(?:[a-z]+/)+", text)
    paths = [name.strip("`").removeprefix("mdf_detectron/") for name in names]
    assert [p for p in paths if not (package / p).exists() and not (REPOSITORY / p).exists()] == []


def test_every_collection_is_described():
    lines = PAGES["docs/collections.md"] + PAGES["docs/own_data.md"]
    assert [name for name in COLLECTIONS if f"\nmdf prepare {name} --" not in lines] == []


def test_the_plan_of_the_page_is_one(tmp_path):
    (tmp_path / "plan.yaml").write_text(re.search(r"```yaml\n(name:.*?)```", PAGES["docs/evaluation.md"], re.S)[1])
    assert read_plan(tmp_path / "plan.yaml").name == "columns"


def test_the_package_spells_commands_as_users_do():
    for path in (REPOSITORY / "mdf_detectron").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\b(?:tools|datasets)/\w+\.py", text), path
        assert {*re.findall(r"`mdf ([a-z][\w-]*)", text)} <= {*cli.COMMANDS}, path
