"""The reward model: which labelled pairs it is trained on, as which token rows, under which loss.

Bradley–Terry with soft labels: −p·log σ(r_c − r_r) − (1−p)·log σ(r_r − r_c), where p = P(chosen) (Lee et al. 2023,
section 2.2.1; Bai et al. 2022, section 4.1 for the soft label). Labels come from the feedback model, from people, or
from both (Bai et al. 2022, section 4.2: human helpfulness beside AI harmlessness). How a reward model is measured is in
`reward_evaluation`. It knows no trainer and no table store.
"""

# pyright: reportMissingTypeStubs=false

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from cai_dagster.hashing import content_hash_of_list
from cai_dagster.inputs.settings import Split
from cai_dagster.judging.label_policies import SOFT_MEAN, label_pairs, preference_rows
from cai_dagster.judging.questions import quote
from cai_dagster.models.chat_format import ChatFormat
from cai_dagster.models.messages import Message, Messages, to_messages
from cai_dagster.tables.registry import TABLES
from cai_dagster.training.settings import RewardLabels, RewardModelSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

AI, HUMAN = "ai", "human"  # who labelled a pair
PRINCIPLE_TABLES = ("response_pairs", "judgements", "prompts", "constitution")  # labels by principle come from them

# What a column says of a pair that has nothing special about it. Such columns are no part of a checkpoint's key.
_ORDINARY: dict[str, Any] = {"labelled_by": AI, "principle": None, "margin": 0.0, "loss_weight": 1.0}
_PAIR = ("pair_id", "prompt_id", "prompt", "chosen", "rejected", "p_chosen", "label_policy", "split")
_COLUMNS = (*_PAIR, "principle_id", *_ORDINARY)
# Options of the reward model that are no part of a checkpoint's key while they have these values.
_OPTIONS_OFF: dict[str, Any] = {"labels": RewardLabels.soft, "margin": 0.0, "principle_conditioned": False}


@dataclass(frozen=True)
class TokenPair:
    """A preference pair as tokens, with its soft label and the lengths of its texts in characters.

    `margin` is how much more than nothing the chosen one's reward should be ahead; `loss_weight` counts the pair's
    loss against those of others.
    """

    chosen_ids: Sequence[int]
    rejected_ids: Sequence[int]
    p_chosen: float
    chosen_length: int
    rejected_length: int
    margin: float = 0.0
    loss_weight: float = 1.0
    prompt_id: str = ""


def label_tables(settings: RewardModelSettings) -> tuple[str, ...]:
    """The tables that the feedback model's labels are read from; `human_preferences` is read beside them."""
    return PRINCIPLE_TABLES if settings.principle_conditioned else ("preference_pairs",)


def training_pairs(tables: Mapping[str, pl.DataFrame], settings: RewardModelSettings) -> pl.DataFrame:
    """Labelled pairs of the split `preference`, each with its loss weight: the feedback model's, or people's.

    `tables`: those that `label_tables` names, or `human_preferences`. Columns as in `preference_pairs`, and
    `labelled_by` (ai or human), `principle_id` and `principle` (null where no principle is part of the input),
    `margin` and `loss_weight`.
    """
    if "human_preferences" in tables:
        principle = settings.human_principle if settings.principle_conditioned else None
        people = tables["human_preferences"]
        pairs = human_pairs(people, settings.human_p_chosen, settings.human_weight, principle)
    else:
        pairs = principle_pairs(tables) if settings.principle_conditioned else ai_pairs(tables["preference_pairs"])
    pairs = preference_split(pairs)
    if settings.labels == RewardLabels.soft:
        return pairs
    strength = 2 * pl.col("p_chosen") - 1
    return pairs.with_columns((settings.margin * strength).alias("margin"), pl.lit(1.0).alias("p_chosen"))


def preference_split(pairs: pl.DataFrame) -> pl.DataFrame:
    """The pairs that may be trained on."""
    return pairs.filter(pl.col("split") == Split.preference)


def ai_pairs(preference_pairs: pl.DataFrame) -> pl.DataFrame:
    """The pairs of `preference_pairs` as labelled pairs."""
    return _labelled(preference_pairs)


def principle_pairs(tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Pair × principle: the same two completions may be labelled one way by one principle and the other by the next.

    P(chosen) is the feedback model's under this one principle, averaged over the orders; the rules for ties, identical
    texts and missing judgements are those of `label_policies`, a pair under a principle being a pair of its own.
    """
    judgements = tables["judgements"]
    judged = judgements.select("pair_id", "principle_id").unique()
    whole = pl.concat_str("pair_id", "principle_id").alias("pair_id")
    pairs = tables["response_pairs"].join(judged, on="pair_id").with_columns(whole)
    labelled = label_pairs(pairs.lazy(), judgements.with_columns(whole).lazy(), SOFT_MEAN)
    principles = tables["constitution"].select("principle_id", pl.col("comparison_request").alias("principle"))
    rows = preference_rows(labelled, tables["prompts"].lazy()).join(principles.lazy(), on="principle_id")
    return _labelled(rows.sort("pair_id").collect())


def human_pairs(
    human_preferences: pl.DataFrame, p_without_votes: float, loss_weight: float = 1.0, principle: str | None = None
) -> pl.DataFrame:
    """The pairs that people labelled: P(chosen) is its share of the votes where there are votes.

    Where most votes are for the rejected one, the two change places; of a tie nothing can be learned.
    """
    share = pl.col("votes_chosen") / (pl.col("votes_chosen") + pl.col("votes_rejected"))
    voted = human_preferences.with_columns(share.fill_nan(None).fill_null(p_without_votes).alias("p"))
    wrong_way = pl.col("p") < 0.5
    return _labelled(
        voted.filter(pl.col("p") != 0.5).with_columns(
            pl.when(wrong_way).then("rejected").otherwise("chosen").alias("chosen"),
            pl.when(wrong_way).then("chosen").otherwise("rejected").alias("rejected"),
            pl.max_horizontal("p", 1 - pl.col("p")).alias("p_chosen"),
            pl.lit("votes").alias("label_policy"),
            pl.lit(HUMAN).alias("labelled_by"),
            pl.lit(loss_weight).alias("loss_weight"),
            pl.lit(principle, dtype=pl.String).alias("principle"),
        )
    )


def _labelled(pairs: pl.DataFrame) -> pl.DataFrame:
    """The columns of a labelled pair; those that are not there say nothing special."""
    missing = {name: value for name, value in _ORDINARY.items() if name not in pairs.columns}
    if "principle_id" not in pairs.columns:
        missing["principle_id"] = None
    added = [pl.lit(value, dtype=pl.String if value is None else None).alias(name) for name, value in missing.items()]
    return pairs.with_columns(added).select(_COLUMNS)


@dataclass(frozen=True)
class LabelledPairs:
    """The pairs of a training, in their order, in Parquet files: there may be more than memory holds."""

    files: Path

    @classmethod
    def written(cls, frames: Iterable[pl.DataFrame], files: Path) -> "LabelledPairs":
        """The pairs of these frames, which `training_pairs` made, one frame after another, in a folder's files."""
        nothing = ai_pairs(TABLES["preference_pairs"].schema.to_frame())
        for number, frame in enumerate(chain([nothing], frames)):
            frame.write_parquet(files / f"{number:06}.parquet", mkdir=True)
        return cls(files)

    def rows(self) -> Iterator[dict[str, Any]]:
        """The pairs, a dict each."""
        for file in sorted(self.files.iterdir()):
            yield from pl.read_parquet(file).iter_rows(named=True)

    @property
    def _scanned(self) -> pl.LazyFrame:
        return pl.scan_parquet(self.files / "*.parquet")

    def labelled_by(self) -> dict[str, int]:
        """How many pairs the feedback model labelled, and how many people did: `ai_pairs`, `human_pairs`."""
        people = pl.col("labelled_by") == HUMAN
        counts = self._scanned.select(ai_pairs=(~people).sum(), human_pairs=people.sum())
        return counts.collect().row(0, named=True)

    @cached_property
    def count(self) -> int:
        """How many pairs there are."""
        return sum(self.labelled_by().values())

    def label_policy(self) -> str | None:
        """That of the first pair."""
        policies = self._scanned.select("label_policy").head(1).collect()["label_policy"].to_list()
        return policies[0] if policies else None

    def hash(self) -> str:
        """Of the pairs in their order, for the key of a checkpoint."""
        special = [pl.col(name).ne_missing(pl.lit(value)).any() for name, value in _ORDINARY.items()]
        varied = self._scanned.select(special).collect().row(0, named=True)
        columns = ["prompt", "chosen", "rejected", "p_chosen", *(name for name, varies in varied.items() if varies)]
        return content_hash_of_list({name: row[name] for name in columns} for row in self.rows())


def training_settings(settings: RewardModelSettings, with_people: bool) -> dict[str, Any]:
    """The settings that decide the weights, for key and record of a checkpoint.

    An option that is off is left out, and so is what concerns human labels where there are none: what changes no
    weight changes no key.
    """
    values = settings.model_dump()
    silent = {name for name, off in _OPTIONS_OFF.items() if values[name] == off}
    if not with_people:
        silent |= {name for name in values if name.startswith("human_")}
    return {name: value for name, value in values.items() if name not in silent}


def conditioned(prompt: Messages, principle: str | None) -> Messages:
    """The dialogue's first turns with a principle in front, as a principle-conditioned reward model reads them.

    The first message becomes `Principle:`, the principle with `> ` before each of its lines, an empty line,
    `Conversation:`, and its own text, each on a new line. The principle comes first, so that truncation never cuts it,
    and nothing in the dialogue stands before it; its lines are quoted, so that no principle ends the frame.
    """
    if principle is None:
        return prompt
    first = prompt[0]
    text = f"Principle:\n{quote(principle)}\n\nConversation:\n{first.content}"
    return (Message(first.role, text), *prompt[1:])


def token_pairs(pairs: Iterable[Mapping[str, Any]], chat_format: ChatFormat, max_length: int) -> Iterator[TokenPair]:
    """The labelled pairs cut to `max_length` tokens, without those that have become identical: they teach nothing.

    (Their loss is ln 2 whatever the reward: OpenRLHF issue 1311.)
    """
    for row in pairs:
        prompt, chosen, rejected = (to_messages(row[column]) for column in ("prompt", "chosen", "rejected"))
        prompt = conditioned(prompt, row["principle"])
        pair = TokenPair(
            chosen_ids=chat_format.dialogue_ids((*prompt, *chosen))[:max_length],
            rejected_ids=chat_format.dialogue_ids((*prompt, *rejected))[:max_length],
            p_chosen=row["p_chosen"],
            chosen_length=len(chosen[-1].content),
            rejected_length=len(rejected[-1].content),
            margin=row["margin"],
            loss_weight=row["loss_weight"],
            prompt_id=row["prompt_id"],
        )
        if pair.chosen_ids != pair.rejected_ids:
            yield pair


def soft_label_loss(margin: "NDArray[np.float64]", p_chosen: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """−p·log σ(m) − (1−p)·log σ(−m) for each pair, in nats; m = r_chosen − r_rejected, less what it should be ahead."""
    return p_chosen * np.logaddexp(0, -margin) + (1 - p_chosen) * np.logaddexp(0, margin)
