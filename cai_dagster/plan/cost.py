"""The plan: what a materialization would pay for, said before any model is loaded.

Each stage's own recipe runs against the ledger alone. A call that is in it gives its answer; any other is counted and
given a stand-in that no later request has ever contained, so that what depends on it is counted as new too. So the
counts are those of the run, by the same code. Only an answer that nobody has seen yet can lower them: where it is word
for word an older one, what follows it is in the ledger; where there is no word in it, its row is set aside.

It knows the settings of the active profile, not what somebody types into the launchpad, and plans the graph up to the
reward model: what is materialized on demand (the group `policy_optimization`) it leaves out.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from cai_dagster.calls.ledger import CallLengths, Ledger
from cai_dagster.calls.ledgered_model import LedgeredModel
from cai_dagster.calls.requests import Answer, PaidCall, Request
from cai_dagster.calls.row_stream import Progress, run_rows
from cai_dagster.constitution.constitution import Constitution, load_constitution
from cai_dagster.errors import MendableError
from cai_dagster.home import PROJECT, Home
from cai_dagster.inputs.decontamination import evaluation_sets
from cai_dagster.inputs.human_preferences import collect_human_preferences
from cai_dagster.inputs.imported_pairs import import_pairs
from cai_dagster.inputs.prompts import collect_prompts, prompt_row
from cai_dagster.inputs.settings import Split
from cai_dagster.judging.label_policies import label_pairs, preference_rows
from cai_dagster.lake.forgotten_prompts import forgotten_prompts
from cai_dagster.lake.lake import Lake, Rows
from cai_dagster.lake.scratch import scratch_folder
from cai_dagster.lake.staging import StagedRows
from cai_dagster.models.chat_format import ChatFormat, fitting
from cai_dagster.models.weights import Weights, checkpoint_weights
from cai_dagster.plan.stages import (
    Stage,
    calibration_stage,
    initial_responses_stage,
    judgements_stage,
    response_pairs_stage,
    revision_rounds_stage,
)
from cai_dagster.recipes.response_pairs import FIRST_AND_LAST_RESPONSES, revision_pair
from cai_dagster.recipes.settings import PairSource
from cai_dagster.settings import Settings
from cai_dagster.tables.registry import TABLES
from cai_dagster.training.checkpoints import Ingredients, checkpoint_folder, folder_of_row, read_record
from cai_dagster.training.reward_modelling import pairs_hash, training_pairs, training_settings
from cai_dagster.training.settings import RewardModelBase
from cai_dagster.training.supervised import dialogues_of, examples_hash, supervised_examples

PLANNED = (
    "constitution",
    "prompts",
    "initial_responses",
    "revision_rounds",
    "sft_dataset",
    "sl_cai_model",
    "response_pairs",
    "judgements",
    "human_preferences",
    "calibration_judgements",
    "preference_pairs",
    "reward_model",
)
_PAID = """
    SELECT table_name, model_id, prompt_tokens + completion_tokens AS tokens,
        coalesce(engine_seconds, seconds) AS seconds
    FROM lake.materializations WHERE ledger_misses > 0 AND tokens > 0
"""
_CONFIDENCE = 1.96  # standard deviations either side: 95 % of a normal distribution
_UNTRAINED = "not trained yet"


class PlanError(MendableError):
    """What was asked cannot be planned; the message says what can."""


class PlannedModel(Protocol):
    """A language model as the configuration names it; `configured_model.ConfiguredModel` is one."""

    @property
    def max_model_len(self) -> int:
        """Context length in tokens."""
        ...

    @property
    def rows_in_flight(self) -> int:
        """Rows in work at once."""
        ...

    def weights(self) -> Weights:
        """The configured model on this machine, for training."""
        ...

    def served_weights(self) -> Weights:
        """The configured model, for asking it."""
        ...

    def chat_format(self) -> ChatFormat:
        """Its tokenizer and template."""
        ...

    def model_id(self, weights: Weights) -> str:
        """The identity of weights served by these settings."""
        ...


@dataclass(frozen=True)
class StagePlan:
    """The calls of one stage for one version.

    `new` are those that nobody has made; `in_ledger` those that cost nothing: their answer is in the ledger, or an
    earlier call of this plan pays for it. Not `exact`: an upper bound, because an input does not exist yet.
    Tokens of the new calls with their 95 % interval and seconds at the measured rate; None where none was measured.
    """

    asset: str
    constitution_version: str | None
    calls: int
    in_ledger: int
    new: int
    exact: bool
    tokens_estimate: int | None
    tokens_low: int | None
    tokens_high: int | None
    seconds_estimate: float | None


@dataclass(frozen=True)
class CheckpointPlan:
    """Whether a checkpoint is there already. `exists` is None where what it is trained on is not known yet."""

    asset: str
    constitution_version: str
    exists: bool | None
    seconds_estimate: float | None


@dataclass(frozen=True)
class CostPlan:
    """What the selected assets would cost for some versions, in the order in which they would run."""

    stages: list[StagePlan]
    checkpoints: list[CheckpointPlan]

    def to_json(self) -> dict[str, Any]:
        """As `cai plan --json` prints it."""
        return {
            "stages": [asdict(stage) for stage in self.stages],
            "checkpoints": [asdict(checkpoint) for checkpoint in self.checkpoints],
        }


@dataclass(frozen=True)
class _Input:
    """A table as the run would find it. Not `known`: some of its texts are stand-ins."""

    rows: Rows
    known: bool


class _CountedCalls:
    """The ledger, and the calls that the plan has counted as new; nothing is written."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._counted: dict[bytes, int] = {}  # with the number of its choices, 0 for a completion
        self.new_by_stage: Counter[str] = Counter()

    def get(self, request_ids: Sequence[str]) -> Mapping[str, Answer]:
        keys = {one: bytes.fromhex(one) for one in request_ids}
        counted = {one: _stand_in(one, self._counted[key]) for one, key in keys.items() if key in self._counted}
        return {**self._ledger.get([one for one in request_ids if one not in counted]), **counted}

    def put(self, calls: Iterable[PaidCall]) -> set[str]:
        for call in calls:
            self._counted[bytes.fromhex(call.request_id)] = len(call.answer.logprobs or ())
            self.new_by_stage[call.slot.stage] += 1
        return set()

    def retries(self) -> Mapping[str, int | None]:
        return self._ledger.retries()


class _CountingEngine:
    """Answers with stand-ins. It refuses what an engine would refuse: prompts that do not fit the context."""

    def __init__(self, model: PlannedModel, model_id: str) -> None:
        self._model = model
        self._model_id = model_id

    @cached_property
    def _format(self) -> ChatFormat:
        return self._model.chat_format()

    async def complete(self, request: Request) -> Answer:
        ids = self._format.prompt_ids(request.messages, request.prefill)
        fitting(ids, request.sampling.max_tokens, self._model.max_model_len)
        return _stand_in(request.completion_id(self._model_id))

    async def choose(self, request: Request, choices: tuple[str, ...]) -> Answer:
        fitting(self._format.prompt_ids(request.messages, request.prefill), 1, self._model.max_model_len)
        return _stand_in(request.choice_id(self._model_id, choices), len(choices))


def _stand_in(request_id: str, choices: int = 0) -> Answer:
    logprobs = (-math.log(choices),) * choices if choices else None
    return Answer(f"(an answer not known yet: {request_id})", "stop", 0, 0, 0.0, logprobs)


def plan(
    home: Home,
    settings: Settings,
    policy: PlannedModel,
    feedback_model: PlannedModel,
    versions: Sequence[str],
    selection: Sequence[str] = (),
    report: Callable[[str], None] = lambda _: None,
) -> CostPlan:
    """What materializing the selected assets (all, where none is named) for these versions would cost.

    Versions are planned in the given order; what one pays for, the next finds. An input that is not selected is taken
    from the lake. Raises PlanError for an asset that has no plan.
    """
    unknown = set(selection) - set(PLANNED)
    if unknown:
        raise PlanError(f"no plan for {', '.join(sorted(unknown))}; --select takes {', '.join(PLANNED)}")
    lake = Lake(home)
    ledger = Ledger(home.ledger)
    calls = _CountedCalls(ledger)
    estimates = _Estimates(lake, ledger.lengths())
    stages: list[StagePlan] = []
    checkpoints: list[CheckpointPlan] = []
    with scratch_folder(home.staging) as folder:
        shared: dict[str, _Input] = {}
        for version in versions:
            planner = _VersionPlanner(
                home, settings, policy, feedback_model, version, frozenset(selection or PLANNED), lake, calls, folder,
                estimates, shared, report,
            )  # fmt: skip
            planner.run()
            stages += planner.stages
            checkpoints += planner.checkpoints
    return CostPlan(stages, checkpoints)


class _Estimates:
    """Tokens and seconds of calls that nobody has made, from those that somebody has."""

    def __init__(self, lake: Lake, lengths: Sequence[CallLengths]) -> None:
        self._lengths = lengths
        self._accounts = lake.select(_PAID, {})

    def tokens(self, model_id: str, new: Mapping[str, int]) -> tuple[float, float, float] | None:
        """Expected tokens of `new` calls by stage, and their 95 % prediction interval.

        The sum of m new calls, when n were measured with mean μ and variance σ², is mμ ± 1.96·σ·√(m + m²/n).
        """
        expected = spread = 0.0
        for stage, calls in new.items():
            measured = [length for length in self._lengths if length.stage == stage]
            own = [length for length in measured if length.model_id == model_id] or measured
            if not own:
                return None
            best = max(own, key=lambda length: length.calls)
            expected += calls * best.mean
            spread += best.variance * (calls + calls**2 / best.calls)
        half = _CONFIDENCE * math.sqrt(spread)
        return expected, max(0.0, expected - half), expected + half

    def seconds(self, table: str, model_id: str, tokens: float) -> float | None:
        """At the rate of this model in this stage; in any stage, where it has not been measured in this one."""
        for accounts in (
            self._accounts.filter(pl.col("table_name") == table, pl.col("model_id") == model_id),
            self._accounts.filter(pl.col("model_id") == model_id),
            self._accounts.filter(pl.col("table_name") == table),
        ):
            if accounts.height:
                return tokens * float(accounts.select(pl.sum("seconds") / pl.sum("tokens")).item())
        return None

    def training_seconds(self, home: Home, asset: str) -> float | None:
        """The mean of the checkpoints that are here."""
        records = [read_record(file.parent) for file in (home.models / asset).glob("*/record.json")]
        return sum(record.seconds for record in records) / len(records) if records else None


@dataclass
class _VersionPlanner:
    home: Home
    settings: Settings
    policy: PlannedModel
    feedback_model: PlannedModel
    version: str
    selected: frozenset[str]
    lake: Lake
    calls: _CountedCalls
    folder: Path
    estimates: _Estimates
    shared: dict[str, _Input]
    report: Callable[[str], None]

    def __post_init__(self) -> None:
        self.stages: list[StagePlan] = []
        self.checkpoints: list[CheckpointPlan] = []

    def run(self) -> None:
        """Plan what is selected, in the order of the graph, and on the way the inputs that nobody has made yet."""
        for table in (
            "initial_responses", "revision_rounds", "sl_cai_model", "response_pairs", "judgements",
            "calibration_judgements",
        ):  # fmt: skip
            if table in self.selected:
                getattr(self, table)
        if "reward_model" in self.selected:
            self._plan_reward_model(self.judgements)

    @cached_property
    def constitution(self) -> Constitution:
        if "constitution" not in self.selected and self.lake.materialized("constitution", self.version):
            rows = self.lake.snapshot("constitution", self.version).frame()
            return Constitution.from_rows(rows.to_dicts())
        return load_constitution(PROJECT / "constitutions" / f"{self.version}.yaml")

    @property
    def prompts(self) -> _Input:
        return self._once("prompts", self._plan_prompts)

    @property
    def initial_responses(self) -> _Input:
        stage = initial_responses_stage(self.settings.initial_responses)
        return self._once("initial_responses", lambda: self._plan_stage(stage, self.policy, {"prompts": self.prompts}))

    @cached_property
    def revision_rounds(self) -> _Input:
        stage = revision_rounds_stage(self.constitution, self.settings.revision_rounds)
        inputs = {"prompts": self.prompts, "initial_responses": self.initial_responses}
        return self._from_lake("revision_rounds") or self._plan_stage(stage, self.policy, inputs)

    @cached_property
    def sl_cai_model(self) -> Weights | None:
        """The weights that pairs are sampled from; None when they are not trained yet."""
        current = self._from_lake("sl_cai_model")
        if current is not None:
            row = self.lake.read(current.rows).row(0, named=True)
            folder = folder_of_row(self.home, "sl_cai_model", row)
            return checkpoint_weights("sl_cai_model", row["checkpoint_key"], folder, self.home)
        rounds = self.revision_rounds
        key = None
        if rounds.known:
            chosen = self.settings.sft_dataset.rounds
            frames = (self.lake.read(rounds.rows), self.lake.read(self.prompts.rows))
            examples = dialogues_of(supervised_examples(*frames, Split.sft, chosen))
            training = self.settings.sl_cai_model.model_dump()
            key = self._key("sl_cai_model", self.policy.weights(), examples_hash(examples), training)
        self._plan_checkpoint("sl_cai_model", key)
        return self._checkpoint("sl_cai_model", key) if key else None

    @cached_property
    def response_pairs(self) -> _Input:
        current = self._from_lake("response_pairs")
        if current is not None:
            return current
        settings = self.settings.response_pairs
        if settings.source == PairSource.revisions:
            inputs = {
                "prompts": self.prompts, "initial_responses": self.initial_responses,
                "revision_rounds": self.revision_rounds,
            }  # fmt: skip
            staged = StagedRows(self.folder, "response_pairs", self.version)
            sources = {name: one.rows for name, one in inputs.items()}
            staged.add(revision_pair(row) for row in self.lake.stream(FIRST_AND_LAST_RESPONSES, **sources))
            staged.close()
            return _Input(staged, all(one.known for one in inputs.values()))
        if settings.source == PairSource.imported:
            splits = dict(self.lake.read(self.prompts.rows).select("prompt_id", "split").iter_rows())
            staged = StagedRows(self.folder, "response_pairs", self.version)
            staged.add(import_pairs(settings, splits).rows)
            staged.close()
            return _Input(staged, known=True)
        weights = self.sl_cai_model
        stage = response_pairs_stage(settings)
        return self._plan_stage(stage, self.policy, {"prompts": self.prompts}, weights, trained=weights is not None)

    @cached_property
    def judgements(self) -> _Input:
        stage = judgements_stage(self.constitution, self.settings.judgements)
        inputs = {"prompts": self.prompts, "response_pairs": self.response_pairs}
        return self._from_lake("judgements") or self._plan_stage(stage, self.feedback_model, inputs)

    @property
    def human_preferences(self) -> _Input:
        return self._once("human_preferences", self._plan_human_preferences)

    @cached_property
    def calibration_judgements(self) -> _Input:
        calibration = self.settings.judge_calibration
        stage = calibration_stage(self.constitution, calibration.judging(self.settings.judgements), calibration)
        inputs = {"human_preferences": self.human_preferences}
        return self._from_lake("calibration_judgements") or self._plan_stage(stage, self.feedback_model, inputs)

    def _plan_reward_model(self, judgements: _Input) -> None:
        weights = self.policy.weights()
        if self.settings.reward_model.base == RewardModelBase.sl_cai_model:
            weights = self.sl_cai_model
        key = None
        if judgements.known and weights is not None:
            pairs, evidence = self.lake.read(self.response_pairs.rows), self.lake.read(judgements.rows)
            prompts = self.lake.read(self.prompts.rows)
            labelled = label_pairs(pairs.lazy(), evidence.lazy(), self.settings.preference_pairs)
            tables = {
                "preference_pairs": preference_rows(labelled, prompts.lazy()).sort("pair_id").collect(),
                "response_pairs": pairs,
                "judgements": evidence,
                "prompts": prompts,
                "constitution": pl.DataFrame(self.constitution.to_rows()),
            }
            if self.lake.materialized("human_preferences"):
                tables["human_preferences"] = self.lake.snapshot("human_preferences").frame()
            rows = training_pairs(tables, self.settings.reward_model)
            training = training_settings(self.settings.reward_model, rows)
            key = self._key("reward_model", weights, pairs_hash(rows), training)
        self._plan_checkpoint("reward_model", key)

    def _plan_prompts(self) -> _Input:
        chat_format = self.policy.chat_format()
        longest = min(self.settings.prompts.longest_prompt, self.policy.max_model_len)
        settings = self.settings.prompts.model_copy(update={"longest_prompt": longest})
        sets = evaluation_sets(self.settings.decontamination)
        collected, _ = collect_prompts(
            settings, lambda messages: len(chat_format.prompt_ids(messages)), sets, forgotten_prompts(self.home)
        )
        staged = StagedRows(self.folder, "prompts", None)
        staged.add(prompt_row(prompt, settings) for prompt in collected)
        staged.close()
        return _Input(staged, known=True)

    def _plan_human_preferences(self) -> _Input:
        sets = evaluation_sets(self.settings.decontamination)
        pairs, _ = collect_human_preferences(
            self.settings.human_preferences, self.settings.prompts, sets, forgotten_prompts(self.home)
        )
        staged = StagedRows(self.folder, "human_preferences", None)
        staged.add(pairs)
        staged.close()
        return _Input(staged, known=True)

    def _plan_stage(
        self,
        stage: Stage,
        model: PlannedModel,
        inputs: Mapping[str, _Input],
        weights: Weights | None = None,
        trained: bool = True,
    ) -> _Input:
        """Run the stage's recipe against the ledger and count."""
        model_id = model.model_id(weights or model.served_weights()) if trained else _UNTRAINED
        counted = LedgeredModel(model_id, lambda: _CountingEngine(model, model_id), self.calls, model.chat_format)
        version = self.version if TABLES[stage.table].versioned else None
        staged = StagedRows(self.folder, stage.table, version)
        sources = {name: one.rows for name, one in inputs.items()}
        before = self.calls.new_by_stage.copy()

        def report(progress: Progress) -> None:
            self.report(f"plan of {stage.table}: {progress.done:,} of {progress.total:,} rows")

        rows, total = self.lake.stream(stage.rows, **sources), self.lake.count(stage.rows, **sources)
        run_rows(rows, total, stage.recipe, counted, staged, stage.row_id, model.rows_in_flight, report)
        known = trained and all(one.known for one in inputs.values())
        usage = counted.usage
        tokens = self.estimates.tokens(model_id, self.calls.new_by_stage - before)
        seconds = self.estimates.seconds(stage.table, model_id, tokens[0]) if tokens else None
        if stage.table in self.selected:
            self.stages.append(
                StagePlan(
                    asset=stage.table,
                    constitution_version=version,
                    calls=usage.hits + usage.misses,
                    in_ledger=usage.hits,
                    new=usage.misses,
                    exact=known,
                    tokens_estimate=round(tokens[0]) if tokens else None,
                    tokens_low=round(tokens[1]) if tokens else None,
                    tokens_high=round(tokens[2]) if tokens else None,
                    seconds_estimate=None if seconds is None else round(seconds, 1),
                )
            )
        return _Input(staged, known and not usage.misses)

    def _once(self, table: str, make: Callable[[], _Input]) -> _Input:
        """A table that knows no constitution: the same for every version of the plan."""
        if table not in self.shared:
            self.shared[table] = self._from_lake(table) or make()
        return self.shared[table]

    def _from_lake(self, table: str) -> _Input | None:
        """The table as it is, unless the run would make it anew or nobody has made it yet."""
        version = self.version if TABLES[table].versioned else None
        if table in self.selected or not self.lake.materialized(table, version):
            return None
        return _Input(self.lake.snapshot(table, version), known=True)

    def _key(self, asset: str, base: Weights, rows: str, training: Mapping[str, Any]) -> str:
        return Ingredients(asset, self.version, base.model_id("float32"), rows, training, {}).key

    def _plan_checkpoint(self, asset: str, key: str | None) -> None:
        if asset in self.selected:
            exists = None if key is None else self._checkpoint(asset, key) is not None
            seconds = 0.0 if exists else self.estimates.training_seconds(self.home, asset)
            self.checkpoints.append(CheckpointPlan(asset, self.version, exists, seconds))

    def _checkpoint(self, asset: str, key: str) -> Weights | None:
        folder = checkpoint_folder(self.home, asset, key)
        if not (folder / "record.json").exists():
            return None
        return checkpoint_weights(asset, key, folder, self.home)
