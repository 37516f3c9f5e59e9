"""Shell lines of the documents: split as a shell does, and held against the commands, targets and extras there are.

Nothing is run here.
"""

import os
import re
import shlex
import tomllib
from functools import cache
from itertools import pairwise
from typing import Any
from unittest import mock

from cai_dagster.project import PROJECT

PAGES_VERSIONS = ["v1", "v2", "v3"]  # a page has its reader make v3
_PLACEHOLDER = re.compile(r"<[a-z][^<>\n|&;]*>")
_STREAM = re.compile(r" \d?>&\d")
_SEPARATORS = {"&&", "||", "|", ";", "&"}
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=.*")


class CommandLineError(Exception):
    """A line that the program it names would refuse."""


def commands(code: str) -> list[list[str]]:
    """The commands of a script, each as its words: without comments, redirections and variables set for it alone."""
    text = _PLACEHOLDER.sub("PLACEHOLDER", code.replace("\\\n", " "))
    text = _STREAM.sub(" ", text)
    found: list[list[str]] = []
    for line in text.replace("||\n", "|| ").replace("&&\n", "&& ").splitlines():
        found += _commands_of_a_line(line)
    return found


def _commands_of_a_line(line: str) -> list[list[str]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.wordchars += "[]{},:@%+$…^\\"
    words = list(lexer)
    found: list[list[str]] = [[]]
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word in _SEPARATORS:
            found.append([])
        elif set(word) <= set("<>"):
            skip = True
        elif found[-1] or not _ASSIGNMENT.fullmatch(word):
            found[-1].append(word)
    return [command for command in found if command]


def check_command(words: list[str], whole: bool = True) -> None:
    """Hold one command against what there is; programs that are not ours are taken as they are.

    `whole`: required options must be given. Raises CommandLineError.
    """
    program = words[0].rsplit("/", 1)[-1]
    if program == "cai":
        _check_click(_cai(), words[1:], whole)
    elif program == "dagster" and words[1:2] != ["dev"]:
        _check_click(_dagster(), words[1:], whole)
    elif program == "make" and any(target not in make_targets() for target in words[1:] if "=" not in target):
        raise CommandLineError(f"the Makefile has no target {' '.join(words[1:])}")
    elif words[1:2] == ["-m"] and program.startswith("python"):
        _check_module(words[2])
    elif program == "pip":
        _check_extras(words)


def _own_options(group: Any) -> set[str]:
    """Options of a group of commands itself, such as --help."""
    given = {option for parameter in group.params for option in parameter.opts}
    return {"--help", *given}


def _check_click(command: Any, words: list[str], whole: bool) -> None:
    path = [command.name or "cai"]
    while hasattr(command, "commands"):
        if words[:1] and words[0] in _own_options(command):
            return
        name, *words = words or [""]
        if any(name in parameter.opts for parameter in command.params) or name == "--help":
            return  # `cai --help` needs no command
        found = command.commands.get(name)
        if found is None:
            raise CommandLineError(f"{' '.join(path)} has no command {name!r}")
        path.append(name)
        command = found
    if "--help" in words:
        return
    for parameter in command.params:
        if hasattr(parameter.type, "exists"):
            parameter.type.exists = False  # files that a document names are the reader's
    try:
        with (
            mock.patch("cai_dagster.commands.options.constitution_versions", return_value=PAGES_VERSIONS),
            mock.patch.dict(os.environ),  # --profile would be that of all later tests
        ):
            command.make_context(" ".join(path), list(words))
    except Exception as error:  # of click or of the copy of it inside typer
        if whole or type(error).__name__ != "MissingParameter":
            raise CommandLineError(f"{' '.join(path)}: {getattr(error, 'message', error)}") from error


def _check_module(name: str) -> None:
    ours = ("cai_dagster", "assets", "resources", "benchmarks", "tests")
    path = PROJECT / name.replace(".", "/")
    if name.split(".", 1)[0] in ours and not (path.with_suffix(".py").exists() or (path / "__main__.py").exists()):
        raise CommandLineError(f"there is no module {name} to run")


def _check_extras(words: list[str]) -> None:
    extras = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for word in words:
        named = re.fullmatch(r"\.\[(.*)\]", word)
        missing = set(named[1].split(",")) - set(extras) if named else set[str]()
        if missing:
            raise CommandLineError(f"pyproject.toml has no extra {', '.join(sorted(missing))}")
    for flag, file in pairwise(words):
        if flag == "-r" and not (PROJECT / file).exists():
            raise CommandLineError(f"there is no {file}")


@cache
def make_targets() -> set[str]:
    """The targets of the Makefile."""
    return set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@cache
def _cai() -> Any:
    import typer.main

    from cai_dagster.commands.cli import app

    return typer.main.get_command(app)


@cache
def _dagster() -> Any:
    from dagster._cli import create_dagster_cli

    return create_dagster_cli()
