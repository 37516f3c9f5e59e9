"""Versions of the constitution: the names of the files in constitutions/, in their order. It opens none of them."""

import re
from pathlib import Path

from cai_dagster.errors import MendableError
from cai_dagster.text import did_you_mean

VERSION_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]*")


class ConstitutionError(MendableError):
    """A constitution file that cannot be used; the message says where and why, a line a problem."""


def constitution_versions(folder: Path) -> list[str]:
    """Partition keys: the stems of the `.yaml` files, `v9` before `v10`. Opens none of them.

    In this order the UI lists them and a backfill makes them, each after the one whose calls it shares most.
    """
    return sorted((file.stem for file in folder.glob("*.yaml") if _is_version(file.stem)), key=natural_order)


def _is_version(name: str) -> bool:
    return VERSION_PATTERN.fullmatch(name) is not None and "..." not in name


def files_of_no_version(folder: Path) -> list[str]:
    """The YAML files that are no version by their names, which nothing reads."""
    versions = {f"{version}.yaml" for version in constitution_versions(folder)}
    return [file.name for file in sorted(folder.glob("*.y*ml")) if file.name not in versions]


def natural_order(version: str) -> tuple[list[tuple[bool, int, str]], str]:
    """A key to sort versions by, `v9` before `v10`: runs of digits count as numbers, and numbers come before text."""
    parts = [part for part in re.split(r"([0-9]+)", version) if part]
    key = [(False, int(part), "") if part.isdecimal() else (True, 0, part) for part in parts]
    return key, version  # v1 and v01 have an order too


def file_of_version(folder: Path, version: str) -> Path:
    """The file of a version. Raises ConstitutionError for a name that is none, and where there is no such file."""
    there = ", ".join(constitution_versions(folder)) or "none yet"
    refuse_other_names(version, there)
    file = folder / f"{version}.yaml"
    if not file.exists():
        like = did_you_mean(version, constitution_versions(folder))
        raise ConstitutionError(f"{file}: there is no such file; the versions are {there}{like}")
    return file


def refuse_other_names(version: str, there: str) -> None:
    """Raise ConstitutionError for what is no name of a version; `there` are those that there are."""
    if not _is_version(version):
        raise ConstitutionError(
            f"{version!r} is no version: a version is named {VERSION_PATTERN.pattern}; rename its file in "
            f"constitutions/. The versions are {there}"
        )
