"""All settings together: the sections of settings.toml, its profiles, and the profile in use.

Each section's model lives with what it sets (`judging/settings.py`, …); the values stand in settings.toml. The
launchpad's config classes (in `assets` and `resources`) are made from these models, so a setting is described once.
"""

import os
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from cai_dagster.checks.settings import ChecksSettings
from cai_dagster.compare.settings import ConstitutionDiffSettings
from cai_dagster.constitution.versions import constitution_versions
from cai_dagster.errors import MendableError
from cai_dagster.evaluation.settings import (
    JudgeCalibrationSettings,
    PolicyEvaluationSettings,
    RewardModelEvaluationSettings,
)
from cai_dagster.home import CONSTITUTIONS, SETTINGS_FILE
from cai_dagster.inputs.settings import DecontaminationSettings, HumanPreferencesSettings, PromptsSettings
from cai_dagster.judging.settings import JudgementsSettings, PreferencePairsSettings
from cai_dagster.models.settings import LanguageModelSettings
from cai_dagster.recipes.settings import (
    BestOfNSettings,
    InitialResponsesSettings,
    PolicyResponsesSettings,
    ResponsePairsSettings,
    RevisionRoundsSettings,
)
from cai_dagster.strict_model import StrictModel
from cai_dagster.training.settings import (
    DpoModelSettings,
    RewardModelSettings,
    RlaifModelSettings,
    SftDatasetSettings,
    TrainingSettings,
)

DEFAULT_PROFILE = "default"


class SettingsError(MendableError):
    """settings.toml cannot be used; the message names profile, section and field."""


class Settings(StrictModel):
    """One profile of settings.toml, complete."""

    policy: LanguageModelSettings
    feedback_model: LanguageModelSettings
    prompts: PromptsSettings
    initial_responses: InitialResponsesSettings
    revision_rounds: RevisionRoundsSettings
    sft_dataset: SftDatasetSettings
    sl_cai_model: TrainingSettings
    response_pairs: ResponsePairsSettings
    judgements: JudgementsSettings
    preference_pairs: PreferencePairsSettings
    reward_model: RewardModelSettings
    reward_model_evaluation: RewardModelEvaluationSettings
    teacher_responses: InitialResponsesSettings
    dpo_model: DpoModelSettings
    rlaif_model: RlaifModelSettings
    best_of_n_candidates: BestOfNSettings
    policy_responses: PolicyResponsesSettings
    policy_evaluation: PolicyEvaluationSettings
    decontamination: DecontaminationSettings
    human_preferences: HumanPreferencesSettings
    judge_calibration: JudgeCalibrationSettings
    constitution_diff: ConstitutionDiffSettings
    checks: ChecksSettings


def load_settings(file: Path, profile: str) -> Settings:
    """The profile's values over the default ones.

    Raises SettingsError for a missing profile, a wrong name, a value out of range, and a check's override for a table
    that it is not on or a version that is not there.
    """
    try:
        profiles = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file}: {error}") from error
    profiles.pop("storage", None)  # of the home, not of a profile: `home` reads it
    for name, sections in profiles.items():
        if not isinstance(sections, dict):
            raise SettingsError(f"{file}: [{name}]: is a value; at the top level there are only profiles")
    if DEFAULT_PROFILE not in profiles:
        raise SettingsError(f"{file} has no profile {DEFAULT_PROFILE!r}, on which the others are built")
    if profile not in profiles:
        raise SettingsError(f"{file} has no profile {profile!r}; CAI_PROFILE may be one of {', '.join(profiles)}")
    try:
        settings = Settings.model_validate(_merge(profiles[DEFAULT_PROFILE], profiles[profile]))
    except ValidationError as error:
        problems = [
            f"{file}: [{profile}.{'.'.join(str(part) for part in problem['loc'])}]: {problem['msg']}"
            for problem in error.errors()
        ]
        raise SettingsError("\n".join(problems)) from error
    misplaced = settings.checks.misplaced(lambda: constitution_versions(CONSTITUTIONS))
    if problems := [f"{file}: [{profile}.checks.{place}]: {problem}" for place, problem in misplaced]:
        raise SettingsError("\n".join(problems))
    return settings


@cache
def active_settings() -> Settings:
    """The profile that `CAI_PROFILE` names, from the project's settings.toml."""
    return load_settings(SETTINGS_FILE, os.environ.get("CAI_PROFILE", DEFAULT_PROFILE))


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in above.items():
        if isinstance(value, dict) and isinstance(merged.get(name), dict):
            merged[name] = _merge(merged[name], cast("dict[str, Any]", value))
        else:
            merged[name] = value
    return merged
