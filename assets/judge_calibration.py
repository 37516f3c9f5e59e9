"""The feedback model against humans: it judges their pairs as it judges ours, and is measured by what they said."""

from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.common.launchpad import defaults_from
from assets.common.stage import new_rows, run_stage, stage_rows
from assets.common.table_asset import table_asset
from cai_dagster.constitution.constitution import Constitution
from cai_dagster.evaluation.settings import JudgeCalibrationSettings
from cai_dagster.judging.settings import JudgementsSettings
from cai_dagster.lake.snapshots import TableSnapshot
from cai_dagster.plan.stages import calibration_stage
from cai_dagster.settings import active_settings
from resources.lake import LakeResource
from resources.language_models import LanguageModelResource

if TYPE_CHECKING:
    from cai_dagster.evaluation.calibration import CalibrationSlice


@defaults_from(active_settings().judge_calibration)
@defaults_from(active_settings().judgements)
class CalibrationJudgementsConfig(JudgeCalibrationSettings, JudgementsSettings, dg.Config):
    """Which human pairs are judged; how, is the default of `judgements` but for the number of principles."""


@table_asset(code_version="1")
def calibration_judgements(
    context: dg.AssetExecutionContext,
    config: CalibrationJudgementsConfig,
    constitution: TableSnapshot,
    human_preferences: TableSnapshot,
    feedback_model: LanguageModelResource,
    lake: LakeResource,
) -> dg.MaterializeResult:
    """Human pair × principle × order: log P(A) and log P(B). No rows where there are no human pairs."""
    stage = calibration_stage(Constitution.from_rows(constitution.frame().to_dicts()), config, config)
    tables = {"human_preferences": human_preferences}
    return run_stage(context, lake, feedback_model, stage, tables)


@table_asset(code_version="1")
def judge_calibration(
    context: dg.AssetExecutionContext,
    constitution: TableSnapshot,
    human_preferences: TableSnapshot,
    calibration_judgements: TableSnapshot,
    lake: LakeResource,
) -> dg.MaterializeResult:
    """Agreement with humans, reliability, biases, noise: over all pairs, by category and by principle."""
    from cai_dagster.evaluation.calibration import calibrate, reliability
    from cai_dagster.pages.plots import reliability_plot

    judged = calibration_judgements.frame()
    both = {"judged": calibration_judgements, "humans": human_preferences}
    humans = lake.open().query("FROM humans SEMI JOIN judged USING (pair_id) ORDER BY pair_id", **both)
    seed = active_settings().judge_calibration.sample_seed
    slices = calibrate(judged, humans, constitution.frame(), seed)
    staged = new_rows(context, lake, [calibration_judgements, human_preferences])
    staged.add(one.to_row() for one in slices)
    if not slices:
        return stage_rows(context, lake, staged, {"pairs": 0})
    bins = [(one.confidence, one.agreement, one.share) for one in reliability(judged, humans)]
    plots = {"reliability": reliability_plot(bins), "noise_and_bias": _noise_and_bias(slices)}
    shown: dict[str, Any] = {name: dg.MetadataValue.md(plot) for name, plot in plots.items()}
    return stage_rows(context, lake, staged, {"pairs": slices[0].pairs, "agreement": slices[0].agreement, **shown})


def _noise_and_bias(slices: "list[CalibrationSlice]") -> str:
    """The feedback model beside the humans: a table and a plot of the parts of one verdict's expected squared error."""
    from cai_dagster.pages.plots import noise_bias_plot

    lines = ["| labeller | noise | between orders | between principles | between repeats | bias |", "|---" * 6 + "|"]
    bars: list[tuple[str, dict[str, float]]] = []
    for one in slices:
        if one.slice not in {"all", "humans"}:
            continue
        name = "humans" if one.slice == "humans" else "feedback model"
        parts = {"orders": one.noise_orders, "principles": one.noise_principles, "repeats": one.noise_repeats}
        cells = ["unknown" if value is None else f"{value:.4f}" for value in (one.noise, *parts.values(), one.bias)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
        known = {f"noise between {part}": value for part, value in parts.items() if value is not None}
        noise = known or {"noise between people": one.noise or 0.0}
        bars.append((name, {**noise, "bias": max(0.0, one.bias or 0.0)}))
    return "\n".join([*lines, "", noise_bias_plot(bars)])
