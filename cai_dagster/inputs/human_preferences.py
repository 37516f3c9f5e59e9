"""Human preferences: pairs that people have compared, read from the data sets in use.

A row that is no pair is returned with its reason, never dropped. The layouts of rows are in `preference_rows`, the
files in `source_files`. It knows no model and no judge.
"""

from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any, TypeVar

from cai_dagster.errors import RowError
from cai_dagster.inputs.decontamination import NO_EVALUATION_SETS, EvaluationSets
from cai_dagster.inputs.files import Expected, source_rows
from cai_dagster.inputs.pairs import in_hash_order, pair_id
from cai_dagster.inputs.preference_rows import BadPairError, split_pair
from cai_dagster.inputs.prompts import (
    NONE_FORGOTTEN,
    ForgottenPromptError,
    prompt_id_of,
    prompt_messages,
    refuse_forgotten,
    split_of,
    turn_message,
)
from cai_dagster.inputs.settings import HumanPreferencesSettings, PreferenceFilesSettings, PromptsSettings
from cai_dagster.models.messages import Messages

Made = TypeVar("Made")


class DuplicatePairError(RowError):
    """The same pair, with the same preference, was there before."""

    code = "duplicate_pair"


class ContradictedPairError(RowError):
    """The same pair was there before, with the opposite preference."""

    code = "contradicted_pair"


@dataclass(frozen=True)
class PreferencePair:
    """A prompt, the completion that was preferred, and the other one."""

    prompt: Messages
    chosen: str
    rejected: str

    @property
    def prompt_id(self) -> str:
        """The id of its prompt in the table `prompts`."""
        return prompt_id_of(self.prompt)

    @property
    def pair_id(self) -> str:
        """As in `response_pairs`: hash of the prompt id and both completions."""
        return pair_id(self.prompt_id, *in_hash_order(self.chosen, self.rejected))


@dataclass(frozen=True)
class RejectedPair:
    """A row that is no pair to learn from."""

    source: str
    reason: str
    row: Mapping[str, Any]


def read_pairs(
    settings: PreferenceFilesSettings,
    asset: str,
    make: Callable[[PreferencePair, Mapping[str, Any], str], Made],
    forgotten: Set[str] = NONE_FORGOTTEN,
) -> Iterator[Made | RejectedPair]:
    """What `make` makes of each pair of the sources, its row and its file:line; or why it made nothing of it.

    A pair whose prompt is in `forgotten` is rejected without its text.

    Raises SourceFileError for a file that cannot be read or has no such columns.
    """
    columns = (settings.chosen_column, settings.rejected_column)
    for source, row, problem in source_rows(settings.sources, Expected(asset, (columns,))):
        try:
            if problem is not None:
                raise BadPairError(problem)
            split = split_pair(row, settings, settings.format)
            turns = len(split.prompt) + 1
            chosen, rejected = (
                turn_message({"role": "assistant", "content": text}, turns).content
                for text in (split.chosen, split.rejected)
            )
            pair = PreferencePair(prompt_messages(split.prompt), chosen, rejected)
            refuse_forgotten(pair.prompt_id, forgotten)
            yield make(pair, row, source)
        except ForgottenPromptError as error:
            yield RejectedPair(source, str(error), {})
        except RowError as error:
            yield RejectedPair(source, str(error), row)


def collect_human_preferences(
    settings: HumanPreferencesSettings,
    splits: PromptsSettings,
    evaluation_sets: EvaluationSets = NO_EVALUATION_SETS,
    forgotten: Set[str] = NONE_FORGOTTEN,
) -> tuple[list[dict[str, Any]], list[RejectedPair]]:
    """Rows of `human_preferences`, each pair once, and the rows that are none; `splits` divides the prompts.

    Raises SourceFileError for a file that cannot be read or has no such columns.
    """
    pairs: dict[str, dict[str, Any]] = {}

    def add(pair: PreferencePair, row: Mapping[str, Any], source: str) -> None:
        known = pairs.get(pair.pair_id)
        if known is not None:
            _refuse_again(pair, known)
        evaluation_sets.refuse(pair.prompt)
        pairs[pair.pair_id] = {
            "pair_id": pair.pair_id,
            "prompt_id": pair.prompt_id,
            "prompt": [{"role": message.role, "content": message.content} for message in pair.prompt],
            "chosen": [{"role": "assistant", "content": pair.chosen}],
            "rejected": [{"role": "assistant", "content": pair.rejected}],
            "votes_chosen": _votes(row, settings.votes_chosen_column),
            "votes_rejected": _votes(row, settings.votes_rejected_column),
            "category": _category(row, settings.category_column),
            "source": source,
            "split": split_of(pair.prompt_id, splits),
        }

    rejected = [one for one in read_pairs(settings, "human_preferences", add, forgotten) if one is not None]
    return list(pairs.values()), rejected


def _refuse_again(pair: PreferencePair, known: Mapping[str, Any]) -> None:
    if known["chosen"][0]["content"] == pair.chosen:
        raise DuplicatePairError(f"the same pair is at {known['source']}")
    raise ContradictedPairError(f"{known['source']}, which is kept, has the same pair and prefers the other completion")


def _votes(row: Mapping[str, Any], column: str) -> int | None:
    votes = row.get(column)
    if votes is None or votes == "":
        return None
    try:
        counted = int(votes)
    except (TypeError, ValueError):
        counted = -1
    if counted < 0 or counted != float(votes):
        raise BadPairError(f"{column} is {str(votes)[:40]!r}, which is no number of votes")
    return counted


def _category(row: Mapping[str, Any], column: str) -> str | None:
    category = row.get(column, row.get("subset"))
    return None if category is None else str(category)
