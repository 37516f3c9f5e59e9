"""Imported pairs: the completions of any preference data set, to be judged here (Bai et al. 2022, section 4.1).

Whom the data set prefers plays no part: the judge sees two completions. It knows no judge.
"""

from collections.abc import Callable, Mapping, Set
from typing import Any

from cai_dagster.calls.requests import Completion
from cai_dagster.errors import RowError
from cai_dagster.hashing import content_hash
from cai_dagster.inputs.human_preferences import PreferencePair, RejectedPair, read_pairs
from cai_dagster.inputs.import_report import ImportReport
from cai_dagster.inputs.pairs import in_hash_order, pair_row
from cai_dagster.inputs.prompts import NONE_FORGOTTEN
from cai_dagster.inputs.settings import PreferenceFilesSettings, Split

FINISH_REASON = "imported"


class UnknownPromptError(RowError):
    """A pair answers a prompt that is not in the table `prompts`."""

    code = "unknown_prompt"


def import_pairs(
    settings: PreferenceFilesSettings,
    splits: Mapping[str, str],
    keep: Callable[[dict[str, Any]], None],
    reject: Callable[[RejectedPair], None],
    forgotten: Set[str] = NONE_FORGOTTEN,
    report: ImportReport | None = None,
) -> int:
    """Keep rows of `response_pairs`: the pairs of the sources whose prompts are in `splits`, each pair once.

    `splits` has the split of each prompt id. Rows that are no such pairs are rejected. As for pairs from other sources,
    prompts of the split `sft` are left out; how many pairs they have is returned. Raises SourceFileError for a file
    that cannot be read or has no such columns.
    """
    known: set[str] = set()
    of_sft_prompts = 0

    def add(pair: PreferencePair, _row: Mapping[str, Any], source: str) -> None:
        nonlocal of_sft_prompts
        split = splits.get(pair.prompt_id)
        if split is None:
            raise UnknownPromptError(
                f"the prompt is not in the table prompts; add the file of {source} to prompts.sources, and see "
                "rejected_rows of prompts"
            )
        if split == Split.sft:
            of_sft_prompts += 1
            return
        # No call made these texts: their hash stands where the id of a call does.
        texts = in_hash_order(pair.chosen, pair.rejected)
        thoughts = {pair.chosen: pair.chosen_reasoning, pair.rejected: pair.rejected_reasoning}
        first, second = (Completion(text, FINISH_REASON, content_hash(text), thoughts[text]) for text in texts)
        if pair.pair_id not in known:
            known.add(pair.pair_id)
            keep(pair_row(pair.prompt_id, "imported", first, second))

    for one in read_pairs(settings, "response_pairs", add, forgotten, report):
        if one is not None:
            reject(one)
    return of_sft_prompts
