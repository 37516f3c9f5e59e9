"""Profiles of the settings: those of the package, those of settings.toml, and which one is in use.

It reads names and values and checks neither: `settings` does. Light, so that every command can name a wrong profile.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from cai_dagster.errors import MendableError
from cai_dagster.home import Home
from cai_dagster.project import DEFAULTS_FILE
from cai_dagster.text import did_you_mean

DEFAULT_PROFILE = "default"


class SettingsError(MendableError):
    """The settings cannot be used; the message names file, profile, section and field."""


def active_profile() -> str:
    """The profile in use: the one that `CAI_PROFILE` names, else the one that the home is made with, else `default`."""
    return os.environ.get("CAI_PROFILE") or remembered_profile(Home.from_environment()) or DEFAULT_PROFILE


def active_model() -> str | None:
    """The model in place of those of the profile: `CAI_MODEL`, else that of the home; None for the profile's own."""
    return os.environ.get("CAI_MODEL") or _remembered(Home.from_environment(), 1)


def remembered_profile(home: Home) -> str | None:
    """The profile that a home is made with; None where nothing was made yet."""
    return _remembered(home, 0)


def _remembered(home: Home, line: int) -> str | None:
    try:
        lines = home.profile.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return (lines[line].strip() or None) if line < len(lines) else None


def remember_profile(home: Home, profile: str) -> None:
    """Note the profile that a home is made with, and the model that `CAI_MODEL` names."""
    home.root.mkdir(parents=True, exist_ok=True)
    home.profile.write_text(f"{profile}\n{os.environ.get('CAI_MODEL', '')}".strip() + "\n", encoding="utf-8")


def profiles_of(file: Path) -> dict[str, dict[str, Any]]:
    """The profiles that there are, those of the package first, with what they say themselves.

    Raises SettingsError for a file that is no TOML, and for a value where a profile has to be.
    """
    profiles = _profiles_in(DEFAULTS_FILE)
    for name, sections in _profiles_in(file).items():
        profiles[name] = _merge(profiles.get(name, {}), sections)
    return profiles


def _profiles_in(file: Path) -> dict[str, dict[str, Any]]:
    try:
        profiles = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file}: {error}") from error
    profiles.pop("storage", None)  # of the home, not of a profile: `home` reads it
    for name, sections in profiles.items():
        if not isinstance(sections, dict):
            raise SettingsError(f"{file}: [{name}]: is a value; at the top level there are only profiles")
    return profiles


def values_of(file: Path, profile: str) -> dict[str, Any]:
    """What a profile says, over what those say that it extends. All extend `default` in the end.

    Raises SettingsError where it is missing, or extends one that is, or itself.
    """
    profiles = profiles_of(file)
    if profile not in profiles:
        raise SettingsError(
            f"{file} has no profile {profile!r}; there are {', '.join(profiles)}{did_you_mean(profile, profiles)}"
        )
    line = [profile]
    while line[-1] != DEFAULT_PROFILE:
        below = profiles[line[-1]].get("extend", DEFAULT_PROFILE)
        if below not in profiles:
            raise SettingsError(f"{file}: [{line[-1]}]: extends {below!r}; the profiles are {', '.join(profiles)}")
        if below in line:
            raise SettingsError(
                f"{file}: [{line[-1]}]: extends {below!r}, which extends it: {' → '.join([*line, below])}"
            )
        line.append(below)
    merged: dict[str, Any] = {}
    for name in reversed(line):
        merged = _merge(merged, {key: value for key, value in profiles[name].items() if key != "extend"})
    return merged


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in above.items():
        if isinstance(value, dict) and isinstance(merged.get(name), dict):
            merged[name] = _merge(merged[name], cast("dict[str, Any]", value))
        else:
            merged[name] = value
    return merged
