"""What an import keeps and rejects, as lists."""

from collections.abc import Callable, Set
from typing import Any

from cai_dagster.inputs.decontamination import NO_EVALUATION_SETS, EvaluationSets
from cai_dagster.inputs.human_preferences import RejectedPair, read_human_preferences
from cai_dagster.inputs.import_report import ImportReport
from cai_dagster.inputs.prompts import NONE_FORGOTTEN, Prompt, RejectedPrompt, read_prompts
from cai_dagster.inputs.settings import HumanPreferencesSettings, PromptsSettings
from cai_dagster.models.messages import Messages


def collect_prompts(
    settings: PromptsSettings,
    count_tokens: Callable[[Messages], int],
    evaluation_sets: EvaluationSets = NO_EVALUATION_SETS,
    forgotten: Set[str] = NONE_FORGOTTEN,
    report: ImportReport | None = None,
) -> tuple[list[Prompt], list[RejectedPrompt]]:
    """Of `read_prompts`."""
    kept: list[Prompt] = []
    rejected: list[RejectedPrompt] = []
    read_prompts(settings, count_tokens, kept.append, rejected.append, evaluation_sets, forgotten, report)
    return kept, rejected


def collect_human_preferences(
    settings: HumanPreferencesSettings,
    splits: PromptsSettings,
    evaluation_sets: EvaluationSets = NO_EVALUATION_SETS,
    forgotten: Set[str] = NONE_FORGOTTEN,
    report: ImportReport | None = None,
) -> tuple[list[dict[str, Any]], list[RejectedPair]]:
    """Of `read_human_preferences`."""
    rows: list[dict[str, Any]] = []
    rejected: list[RejectedPair] = []
    read_human_preferences(settings, splits, rows.append, rejected.append, evaluation_sets, forgotten, report)
    return rows, rejected
