"""The plan: what a materialization would pay for, said before any model is loaded.

It walks the declared graph and runs, for each table, the stage or the step that the asset of the table runs, with a
model that counts instead of answering (`counting`). So the counts are those of the run, by the same code.

It knows the settings of the active profile, not what somebody types into the launchpad.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cai_dagster.calls.ledger import open_ledger
from cai_dagster.calls.row_stream import Progress, run_rows
from cai_dagster.checks.declarations import CHECKS
from cai_dagster.constitution.constitution import Constitution, load_constitution
from cai_dagster.errors import MendableError
from cai_dagster.home import Home
from cai_dagster.lake.lake import Lake
from cai_dagster.lake.queries import Rows
from cai_dagster.lake.scratch import scratch_folder, scratch_of
from cai_dagster.lake.staging import StagedRows
from cai_dagster.models.weights import Weights, checkpoint_weights
from cai_dagster.plan.counting import CountedCalls, NewCalls, PlannedModel, counting_model
from cai_dagster.plan.estimates import Estimates
from cai_dagster.plan.stages import STAGES, ModelRole, Stage
from cai_dagster.plan.steps import STEPS
from cai_dagster.plan.trainings import TRAININGS, Training
from cai_dagster.plan.work import Work
from cai_dagster.project import CONSTITUTIONS
from cai_dagster.recipes.settings import PairSource
from cai_dagster.settings import Settings
from cai_dagster.tables.registry import TABLES, graph
from cai_dagster.tables.table import Maker, Table
from cai_dagster.training.checkpoint_folders import brought, folder_of_row

_UNTRAINED = "not trained yet"


class PlanError(MendableError):
    """What was asked cannot be planned; the message says what can."""


@dataclass(frozen=True)
class StagePlan:
    """The calls of one stage for one version.

    `new` are those that nobody has made; `in_ledger` those that cost nothing: their answer is in the ledger, or an
    earlier call of this plan pays for it. Not `exact`: an upper bound, because an input does not exist yet.
    Tokens of the new calls with their 95 % interval and seconds at the measured rate; the estimates are None where
    nothing of the kind was measured.
    """

    asset: str
    constitution_version: str | None
    calls: int
    in_ledger: int
    new: int
    exact: bool
    tokens_estimate: int | None
    tokens_low: int
    tokens_high: int
    seconds_estimate: float | None


@dataclass(frozen=True)
class CheckpointPlan:
    """Whether a checkpoint is there already. `exists` is None where what it is trained on is not known yet.

    `most_rows` are the AI-labelled rows that it would be trained on at most.
    """

    asset: str
    constitution_version: str
    exists: bool | None
    most_rows: int
    seconds_estimate: float | None


@dataclass(frozen=True)
class TablePlan:
    """How many rows a table would have, and how many would be set aside, by reason.

    Not `exact`: at most so many, because some of the texts that it is made of are not known yet.
    """

    asset: str
    constitution_version: str | None
    rows: int
    rejected: int
    rejected_share: float
    reasons: dict[str, int]
    exact: bool


@dataclass(frozen=True)
class CostPlan:
    """What the selected assets would cost for some versions, in the order in which they would run.

    `tables` are those that were counted on the way, `checks` how many data-quality checks would run.
    """

    stages: list[StagePlan]
    checkpoints: list[CheckpointPlan]
    tables: list[TablePlan]
    engine_starts: int
    engine_start_seconds: float | None
    checks: int

    @property
    def seconds(self) -> float | None:
        """Of stages, trainings and engine starts together, as far as they were measured; None where none was."""
        known = [one.seconds_estimate for one in (*self.stages, *self.checkpoints) if one.seconds_estimate is not None]
        starts = self.engine_starts * (self.engine_start_seconds or 0.0)
        return sum(known) + starts if known else None

    def to_json(self) -> dict[str, Any]:
        """As `cai plan --json` prints it."""
        return {
            "stages": [asdict(stage) for stage in self.stages],
            "checkpoints": [asdict(checkpoint) for checkpoint in self.checkpoints],
            "tables": [asdict(table) for table in self.tables],
            "engine_starts": self.engine_starts,
            "engine_start_seconds": self.engine_start_seconds,
            "checks": self.checks,
            "seconds": self.seconds,
        }


def plannable() -> list[str]:
    """The tables that a plan can be made of, in order: what is materialized on demand only where it has one stage."""
    return [table.name for table in graph() if not table.on_demand or table.name in STAGES]


def plan(
    home: Home,
    settings: Settings,
    policy: PlannedModel,
    feedback_model: PlannedModel,
    versions: Sequence[str],
    selection: Sequence[str] = (),
    report: Callable[[str], None] = lambda _: None,
) -> CostPlan:
    """What materializing the selected assets (all that are not on demand, where none is named) would cost.

    Versions are planned in the given order; what one pays for, the next finds. An input that is not selected is taken
    from the lake. Raises PlanError for an asset that has no plan.
    """
    if unknown := set(selection) - set(plannable()):
        raise PlanError(f"no plan for {', '.join(sorted(unknown))}; --select takes {', '.join(plannable())}")
    selected = frozenset(selection or [table.name for table in graph() if not table.on_demand])
    lake, ledger = Lake(home), open_ledger(home)
    models = {ModelRole.policy: policy, ModelRole.feedback_model: feedback_model, ModelRole.sl_cai_model: policy}
    with scratch_folder(scratch_of(home)) as folder:
        run = _Run(home, settings, models, selected, lake, CountedCalls(ledger), folder, report)
        run.estimates = Estimates(lake, ledger.lengths())
        for version in versions:
            _VersionRun(run, version).visit_selected()
    return CostPlan(
        stages=run.stages,
        checkpoints=run.checkpoints,
        tables=run.tables,
        engine_starts=run.starts,
        engine_start_seconds=run.estimates.engine_start_seconds(),
        checks=sum(check.table in selected for check in CHECKS) * len(versions),
    )


@dataclass(frozen=True)
class _Input:
    """A table as the run would find it. Not `known`: some of its texts are stand-ins, or it is not trained yet."""

    rows: Rows
    known: bool


class _Run:
    """What all versions of a plan share, and what is planned so far."""

    estimates: Estimates

    def __init__(
        self,
        home: Home,
        settings: Settings,
        models: Mapping[ModelRole, PlannedModel],
        selected: frozenset[str],
        lake: Lake,
        calls: CountedCalls,
        folder: Path,
        report: Callable[[str], None],
    ) -> None:
        self.home = home
        self.settings = settings
        self.models = models
        self.selected = selected
        self.lake = lake
        self.calls = calls
        self.folder = folder
        self.report = report
        self.shared: dict[str, _Input] = {}  # tables that know no constitution: the same for every version
        self.stages: list[StagePlan] = []
        self.checkpoints: list[CheckpointPlan] = []
        self.tables: list[TablePlan] = []
        self.starts = 0
        self.loaded: str | None = None
        """The model that an engine holds."""


class _VersionRun:
    """The run of one version, as far as it is needed for what is selected."""

    def __init__(self, run: _Run, version: str) -> None:
        self._run = run
        self._version = version
        self._own: dict[str, _Input] = {}
        self._weights: dict[str, Weights | None] = {}

    def visit_selected(self) -> None:
        """Plan what is selected and costs something, in the order of the graph."""
        for table in graph():
            if table.name in self._run.selected:
                if table.maker == Maker.model:
                    self._table(table.name)
                elif table.maker == Maker.training:
                    self._checkpoint(table.name)

    @cached_property
    def _constitution(self) -> Constitution:
        if current := self._from_lake(TABLES["constitution"]):
            return Constitution.from_rows(self._run.lake.read(current.rows).to_dicts())
        return load_constitution(CONSTITUTIONS / f"{self._version}.yaml")

    def _table(self, name: str) -> _Input:
        """The table as the run would find it: as it is in the lake, or as its stage or step makes it."""
        table = TABLES[name]
        made = self._own if table.versioned else self._run.shared
        if name not in made:
            made[name] = self._from_lake(table) or self._make(table)
        return made[name]

    def _from_lake(self, table: Table) -> _Input | None:
        """The table as it is, unless the run would make it anew or nobody has made it yet."""
        version = self._version if table.versioned else None
        if table.name in self._run.selected or not self._run.lake.materialized(table.name, version):
            return None
        return _Input(self._run.lake.snapshot(table.name, version), known=True)

    def _make(self, table: Table) -> _Input:
        settings = self._run.settings
        sampled = table.name != "response_pairs" or settings.response_pairs.source == PairSource.sl_cai_model
        return self._run_stage(table) if table.name in STAGES and sampled else self._run_step(table)

    def _run_step(self, table: Table) -> _Input:
        """What a table that no model writes is filled with."""
        step = STEPS[table.name]
        inputs = {name: self._table(name) for name in step.reads(self._run.settings)}
        work = self._work(table, inputs)
        step.fill(work, self._run.settings, self._run.models[ModelRole.policy])
        work.staged.close()
        return self._counted(work, all(one.known for one in inputs.values()))

    def _counted(self, work: Work, known: bool) -> _Input:
        staged = work.staged
        self._run.tables.append(
            TablePlan(
                staged.table.name,
                staged.constitution_version,
                staged.row_count,
                staged.rejected_count,
                staged.rejected_share,
                dict(staged.reasons),
                known,
            )
        )
        return _Input(staged, known)

    def _work(self, table: Table, inputs: Mapping[str, _Input]) -> Work:
        version = self._version if table.versioned else None
        staged = StagedRows(self._run.folder, table.name, version, validated=False)
        tables = {name: one.rows for name, one in inputs.items()}
        return Work(self._run.home, self._run.lake, self._version, tables, staged)

    def _run_stage(self, table: Table) -> _Input:
        """Run the stage's recipe against the ledger and count."""
        planned = STAGES[table.name]
        stage = planned.make(self._run.settings, self._constitution)
        model = self._run.models[planned.role]
        trained = planned.role != ModelRole.sl_cai_model or self._checkpoint("sl_cai_model") is not None
        model_id = _UNTRAINED
        if trained:
            model_id = model.model_id(self._weights.get(planned.role.value) or model.served_weights())
        inputs = {name: self._table(name) for name in table.reads if re.search(rf"\b{name}\b", stage.rows)}
        known = trained and all(one.known for one in inputs.values())
        work = self._work(table, inputs)
        misses = self._count(stage, work, model, model_id, exact=known)
        return self._counted(work, known and not misses)

    def _count(self, stage: Stage, work: Work, model: PlannedModel, model_id: str, exact: bool) -> int:
        """The new calls of a stage; its plan is kept where it is selected."""
        run = self._run
        before = run.calls.new_by_stage.copy()

        def report(progress: Progress) -> None:
            run.report(f"plan of {stage.table}: {progress.done:,} of {progress.total:,} rows")

        counted = counting_model(model, model_id, run.calls)
        rows, total = run.lake.stream(stage.rows, **work.tables), run.lake.count(stage.rows, **work.tables)
        run_rows(rows, total, stage.recipe, counted, work.staged, stage.row_id, model.rows_in_flight, report)
        usage = counted.usage
        if stage.table in run.selected:
            new = {name: calls - before.get(name, NewCalls()) for name, calls in run.calls.new_by_stage.items()}
            tokens = run.estimates.tokens(model_id, {name: calls for name, calls in new.items() if calls.calls})
            expected = tokens.expected
            seconds = None if expected is None else run.estimates.seconds(stage.table, model_id, expected)
            if usage.misses and model_id != run.loaded:  # the engine of the stage before serves the same model on
                run.starts, run.loaded = run.starts + 1, model_id
            run.stages.append(
                StagePlan(
                    asset=stage.table,
                    constitution_version=work.staged.constitution_version,
                    calls=usage.hits + usage.misses,
                    in_ledger=usage.hits,
                    new=usage.misses,
                    exact=exact,
                    tokens_estimate=None if expected is None else round(expected),
                    tokens_low=math.floor(tokens.low),
                    tokens_high=math.ceil(tokens.high),
                    seconds_estimate=None if seconds is None else round(seconds, 1),
                )
            )
        return usage.misses

    def _checkpoint(self, name: str) -> Weights | None:
        """The weights of a checkpoint; None where they are not trained yet."""
        if name not in self._weights:
            self._weights[name] = self._current_weights(name) or self._planned_weights(name)
        return self._weights[name]

    def _current_weights(self, name: str) -> Weights | None:
        current = self._from_lake(TABLES[name])
        if current is None:
            return None
        row = self._run.lake.read(current.rows).row(0, named=True)
        folder = folder_of_row(self._run.home, name, row)
        return checkpoint_weights(name, row["checkpoint_key"], folder, self._run.home)

    def _planned_weights(self, name: str) -> Weights | None:
        """The checkpoint that the run would find or train: its key is known where what it is trained on is."""
        run, training = self._run, TRAININGS[name]
        base = run.models[ModelRole.policy].weights()
        if training.starts_from_sl_cai_model(run.settings):
            base = self._checkpoint("sl_cai_model")
        inputs = {name: self._table(name) for name in training.reads(run.settings) if self._is_there(name)}
        found = None
        known = base is not None and all(one.known for one in inputs.values())
        if base is not None and known:
            ingredients = training.ingredients(self._work(TABLES[name], inputs), base, run.settings)
            if folder := brought(run.home, name, ingredients.key):
                found = checkpoint_weights(name, ingredients.key, folder, run.home)
        if name in run.selected:
            exists = found is not None if known else None
            seconds = 0.0 if exists else run.estimates.training_seconds(run.home, name)
            rows = self._most_rows(training)
            run.checkpoints.append(CheckpointPlan(name, self._version, exists, rows, seconds))
            if not exists:
                run.loaded = None  # a training needs the accelerator for itself
        return found

    def _most_rows(self, training: Training) -> int:
        named = [table.name for table in graph() if re.search(rf"\b{table.name}\b", training.most_rows)]
        return self._run.lake.count(training.most_rows, **{name: self._table(name).rows for name in named})

    def _is_there(self, name: str) -> bool:
        """Whether a training finds a table: human labels are read where there are any, and made for nobody."""
        return name != "human_preferences" or name in self._run.selected or self._run.lake.materialized(name)
