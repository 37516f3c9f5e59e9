"""All settings together: a section for each stage, checked.

Each section's model lives with what it sets (`judging/settings.py`, …); `profiles` reads the values. The launchpad's
config classes (in `assets` and `resources`) are made from these models, so a setting is described once.
"""

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ValidationError

from cai_dagster.checks.settings import ChecksSettings
from cai_dagster.compare.settings import ConstitutionDiffSettings
from cai_dagster.constitution.versions import constitution_versions
from cai_dagster.evaluation.settings import (
    JudgeCalibrationSettings,
    PolicyEvaluationSettings,
    RewardModelEvaluationSettings,
)
from cai_dagster.inputs.settings import DecontaminationSettings, HumanPreferencesSettings, PromptsSettings
from cai_dagster.judging.settings import JudgementsSettings, PreferencePairsSettings
from cai_dagster.models.settings import LanguageModelSettings
from cai_dagster.profiles import SettingsError, active_model, active_profile, values_of
from cai_dagster.project import CONSTITUTIONS, SETTINGS_FILE, refuse_outside_a_project
from cai_dagster.recipes.settings import (
    BestOfNSettings,
    InitialResponsesSettings,
    PolicyResponsesSettings,
    ResponsePairsSettings,
    RevisionRoundsSettings,
)
from cai_dagster.strict_model import StrictModel
from cai_dagster.text import did_you_mean
from cai_dagster.training.settings import (
    DpoModelSettings,
    RewardModelSettings,
    RlaifModelSettings,
    SftDatasetSettings,
    TrainingSettings,
)

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


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


def load_settings(file: Path, profile: str, model: str | None = None) -> Settings:
    """A profile: what the file says over what the profile that it extends says, down to the defaults of the package.

    `model` takes the place of the profile's models.
    Raises SettingsError for a missing profile, a wrong name, a value out of range, and a check's override for a table
    that it is not on or a version that is not there.
    """
    values = values_of(file, profile)
    for role in ("policy", "feedback_model") if model else ():
        values[role] = {**values[role], "model": model}
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        problems = [
            f"{file}: [{profile}.{'.'.join(str(part) for part in problem['loc'])}]: {_said(problem)}"
            for problem in error.errors()
        ]
        raise SettingsError("\n".join(problems)) from error
    misplaced = settings.checks.misplaced(lambda: constitution_versions(CONSTITUTIONS))
    if problems := [f"{file}: [{profile}.checks.{place}]: {problem}" for place, problem in misplaced]:
        raise SettingsError("\n".join(problems))
    return settings


def _said(problem: "ErrorDetails") -> str:
    """What is wrong with a setting; of a name that there is not, those that are like it."""
    if problem["type"] != "extra_forbidden":
        return problem["msg"]
    *path, name = (str(part) for part in problem["loc"])
    known = _fields_at(path)
    like = did_you_mean(name, known)
    return f"there is no such setting{like}" if like else f"there is no such setting; there are {', '.join(known)}"


def _fields_at(path: Iterable[str]) -> list[str]:
    """The names of the settings of a section."""
    model: type[BaseModel] = Settings
    for part in path:
        inner = model.model_fields[part].annotation if part in model.model_fields else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        model = inner
    return list(model.model_fields)


@cache
def active_settings() -> Settings:
    """The profile in use, with the project's settings.toml over the defaults of the package."""
    refuse_outside_a_project()
    return load_settings(SETTINGS_FILE, active_profile(), active_model())
