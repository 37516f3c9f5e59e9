"""The base of a version: the one that it was made from, and is compared with.

A file names it as `based_on`. Where it does not, the base is the version that it was copied from, by its content: of
those before it in natural order the one with which it shares most principles, the nearest where several do; where it
shares none with any, the one before it.
"""

from contextlib import suppress
from pathlib import Path

from cai_dagster.constitution.constitution import Constitution, load_constitution
from cai_dagster.constitution.versions import ConstitutionError, constitution_versions, natural_order


def base_of(folder: Path, version: str) -> str | None:
    """The version that a version is based on; None for the first. A file with a mistake is no base."""
    return _base(_read(folder), version)


def bases_of(folder: Path, version: str) -> list[str]:
    """The base of a version, its base, and so on: the nearest first."""
    read = _read(folder)
    bases: list[str] = []
    base = _base(read, version)
    while base is not None and base not in (version, *bases):
        bases.append(base)
        base = _base(read, base)
    return bases


def _read(folder: Path) -> dict[str, Constitution]:
    """The constitutions of all versions whose file has no mistake."""
    read: dict[str, Constitution] = {}
    for name in constitution_versions(folder):
        with suppress(ConstitutionError):
            read[name] = load_constitution(folder / f"{name}.yaml")
    return read


def _base(read: dict[str, Constitution], version: str) -> str | None:
    own = read.get(version)
    if own is not None and own.based_on is not None:
        return own.based_on
    versions = sorted({*read, version}, key=natural_order)
    earlier = [one for one in versions[: versions.index(version)] if version not in _named_bases(read, one)]
    principles = set(own.principles if own else ())
    return max(
        reversed(earlier),  # of equals the first: the nearest
        key=lambda one: len(principles & set(read[one].principles)),
        default=None,
    )


def _named_bases(read: dict[str, Constitution], version: str) -> set[str]:
    """The versions that a version is based on by what files say."""
    bases: set[str] = set()
    while version in read and (base := read[version].based_on) is not None and base not in bases:
        bases.add(base)
        version = base
    return bases
