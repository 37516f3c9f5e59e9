"""Human preferences: pairs that people have compared, read from the data sets in use.

A row that is no pair is returned with its reason, never dropped. The layouts of rows are in `preference_rows`, the
files in `files`. It knows no model and no judge.
"""

from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any, TypeVar

from cai_dagster.errors import RowError
from cai_dagster.hashing import content_hash
from cai_dagster.inputs.cells import category_in, count_in, score_in
from cai_dagster.inputs.decontamination import NO_EVALUATION_SETS, EvaluationSets
from cai_dagster.inputs.files import Expected, SourceRow, source_rows
from cai_dagster.inputs.import_report import ImportReport
from cai_dagster.inputs.pairs import in_hash_order, pair_id
from cai_dagster.inputs.preference_formats import PreferenceFormat
from cai_dagster.inputs.preference_rows import (
    JUDGEBENCH,
    RANKED,
    UNPAIRED,
    BadPairError,
    SplitPair,
    layout_of_row,
    pairs_of,
)
from cai_dagster.inputs.prompts import (
    NONE_FORGOTTEN,
    ForgottenPromptError,
    prompt_id_of,
    refuse_forgotten,
    split_of,
)
from cai_dagster.inputs.settings import HumanPreferencesSettings, PreferenceFilesSettings, PromptsSettings
from cai_dagster.inputs.unpaired_rows import UnpairedRowError, UnpairedRows

Made = TypeVar("Made")


class DuplicatePairError(RowError):
    """The same pair, with the same preference, was there before."""

    code = "duplicate_pair"


class ContradictedPairError(RowError):
    """The same pair was there before, with the opposite preference; or its scores say the opposite."""

    code = "contradicted_pair"


class TiedPairError(RowError):
    """Both completions have the same score: neither is preferred."""

    code = "tie"


@dataclass(frozen=True)
class PreferencePair(SplitPair):
    """A prompt, the completion that was preferred, and the other one."""

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


@dataclass(frozen=True)
class _RowsOfPairs:
    """One row, or two that make a pair: their cells, and how they were written."""

    rows: tuple[SourceRow, ...]
    cells: Mapping[str, Any]
    layout: PreferenceFormat


def read_pairs(
    settings: PreferenceFilesSettings,
    asset: str,
    make: Callable[[PreferencePair, Mapping[str, Any], str], Made],
    forgotten: Set[str] = NONE_FORGOTTEN,
    report: ImportReport | None = None,
) -> Iterator[Made | RejectedPair]:
    """What `make` makes of each pair of the sources, its row and its file:line; or why it made nothing of it.

    A pair whose prompt is in `forgotten` is rejected without its text. `report` is told of every row.

    Raises SourceFileError for a file that cannot be read or has no such columns.
    """
    report = ImportReport() if report is None else report
    report.columns_read = columns_of_pairs(settings)
    for read in _rows_of_pairs(settings, asset):
        if isinstance(read, tuple):
            row, reason = read
            report.refused(row, reason)
            yield RejectedPair(row.place, reason, row.cells)
            continue
        made = [*_made(read, settings, make, forgotten)]
        yield from made
        refused = [one for one in made if isinstance(one, RejectedPair)]
        for row in read.rows:
            if len(refused) < len(made):
                report.kept(row, read.layout.value)
            else:
                report.refused(row, refused[0].reason)


def columns_of_pairs(settings: PreferenceFilesSettings) -> tuple[str, ...]:
    """Every column of which something may be read."""
    columns = (
        settings.prompt_column,
        settings.chosen_column,
        settings.rejected_column,
        *RANKED,
        *JUDGEBENCH,
        *UNPAIRED,
    )
    if not isinstance(settings, HumanPreferencesSettings):
        return columns
    votes = (settings.votes_chosen_column, settings.votes_rejected_column)
    scores = (settings.score_chosen_column, settings.score_rejected_column)
    return (*columns, *votes, *scores, settings.category_column, "subset")


def _rows_of_pairs(settings: PreferenceFilesSettings, asset: str) -> Iterator[_RowsOfPairs | tuple[SourceRow, str]]:
    """The rows of the sources, unpaired ones with their partners; or a row with the reason why it is none."""
    unpaired = UnpairedRows(settings)
    layouts = ((settings.chosen_column, settings.rejected_column), RANKED, JUDGEBENCH, UNPAIRED)
    for row in source_rows(settings.sources, Expected(asset, layouts)):
        try:
            if row.problem is not None:
                raise BadPairError(row.problem)
            named = settings.format
            layout = layout_of_row(row.cells, settings) if named == PreferenceFormat.auto else named
            if layout != PreferenceFormat.kto:
                yield _RowsOfPairs((row,), row.cells, layout)
            elif (found := unpaired.add(row)) is not None:
                yield _RowsOfPairs(found.rows, found.cells, layout)
        except RowError as error:
            yield row, str(error)
    for row in unpaired.left():
        yield row, str(UnpairedRowError("no other completion of this prompt has the opposite label"))


def _made(
    read: _RowsOfPairs,
    settings: PreferenceFilesSettings,
    make: Callable[[PreferencePair, Mapping[str, Any], str], Made],
    forgotten: Set[str],
) -> Iterator[Made | RejectedPair]:
    """What is made of each pair of a row, or of the row where it holds none."""
    place = read.rows[0].place
    layout = PreferenceFormat.auto if read.layout == PreferenceFormat.kto else settings.format
    try:
        found = pairs_of(read.cells, settings, layout)
    except RowError as error:
        yield RejectedPair(place, str(error), read.cells)
        return
    for split in found:
        pair = PreferencePair(**vars(split))
        try:
            refuse_forgotten(pair.prompt_id, forgotten)
            yield make(pair, read.cells, place)
        except ForgottenPromptError as error:
            yield RejectedPair(place, str(error), {})
        except RowError as error:
            yield RejectedPair(place, str(error), read.cells)


def read_human_preferences(
    settings: HumanPreferencesSettings,
    splits: PromptsSettings,
    keep: Callable[[dict[str, Any]], None],
    reject: Callable[[RejectedPair], None],
    evaluation_sets: EvaluationSets = NO_EVALUATION_SETS,
    forgotten: Set[str] = NONE_FORGOTTEN,
    report: ImportReport | None = None,
) -> None:
    """Keep rows of `human_preferences`, each pair once, and reject the rows that are none.

    `splits` divides the prompts. Raises SourceFileError for a file that cannot be read or has no such columns.
    """
    known: dict[str, tuple[str, str]] = {}  # of each pair, where it was read and the hash of the one preferred

    def add(pair: PreferencePair, row: Mapping[str, Any], source: str) -> None:
        preferred = content_hash(pair.chosen)
        if pair.pair_id in known:
            _refuse_again(preferred, *known[pair.pair_id])
        refuse_by_scores(row, settings.score_chosen_column, settings.score_rejected_column)
        evaluation_sets.refuse(pair.prompt)
        category = settings.category_column if settings.category_column in row else "subset"
        made = {
            "pair_id": pair.pair_id,
            "prompt_id": pair.prompt_id,
            "prompt": [{"role": message.role, "content": message.content} for message in pair.prompt],
            "chosen": [{"role": "assistant", "content": pair.chosen}],
            "rejected": [{"role": "assistant", "content": pair.rejected}],
            "chosen_reasoning": pair.chosen_reasoning,
            "rejected_reasoning": pair.rejected_reasoning,
            "votes_chosen": count_in(row, settings.votes_chosen_column),
            "votes_rejected": count_in(row, settings.votes_rejected_column),
            "category": category_in(row, category),
            "source": source,
            "split": split_of(pair.prompt_id, splits),
        }
        known[pair.pair_id] = (source, preferred)
        keep(made)

    for one in read_pairs(settings, "human_preferences", add, forgotten, report):
        if one is not None:
            reject(one)


def refuse_by_scores(row: Mapping[str, Any], chosen: str, rejected: str) -> None:
    """Raise TiedPairError where both completions have one score, ContradictedPairError where the rejected has more."""
    scores = score_in(row, chosen), score_in(row, rejected)
    if scores[0] is None or scores[1] is None:
        return
    shown = f"{chosen} is {scores[0]:g} and {rejected} {scores[1]:g}"
    if scores[0] == scores[1]:
        raise TiedPairError(f"{shown}: neither completion is preferred")
    if scores[0] < scores[1]:
        raise ContradictedPairError(f"{shown}: the scores say the opposite of the columns")


def _refuse_again(preferred: str, source: str, preferred_there: str) -> None:
    if preferred == preferred_there:
        raise DuplicatePairError(f"the same pair is at {source}")
    raise ContradictedPairError(f"{source}, which is kept, has the same pair and prefers the other completion")
