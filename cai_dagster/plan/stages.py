"""The stages whose rows a model makes: which rows each works on, and the recipe it runs for every one of them.

One description, used by the asset that runs a stage and by the plan that says what it would cost. The recipes
themselves are in `critique_revision`, `response_pairs`, `judging`, `best_of_n` and `policies`. It knows no engine, no
store and no Dagster.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import wraps
from inspect import signature
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_type_hints

from cai_dagster.calls.requests import LanguageModel, Request, Slot
from cai_dagster.compare.settings import ConstitutionDiffSettings
from cai_dagster.constitution.constitution import Constitution
from cai_dagster.evaluation.settings import JudgeCalibrationSettings
from cai_dagster.inputs.pairs import Pair, in_hash_order
from cai_dagster.judging.judge import judge
from cai_dagster.judging.settings import JudgementsSettings, JudgingMethod
from cai_dagster.models.messages import Message, to_messages
from cai_dagster.processes import decoded
from cai_dagster.recipes.best_of_n import sample_candidates
from cai_dagster.recipes.critique_revision import revise
from cai_dagster.recipes.policies import COMPARED, answer, given_answers, pair_to_judge
from cai_dagster.recipes.response_pairs import sample_pairs
from cai_dagster.recipes.settings import (
    BestOfNSettings,
    InitialResponsesSettings,
    PairSource,
    PolicyResponsesSettings,
    ResponsePairsSettings,
    RevisionRoundsSettings,
)
from cai_dagster.settings import Settings

if TYPE_CHECKING:
    from cai_dagster.calls.row_stream import Recipe, Row


@dataclass(frozen=True)
class Stage:
    """A table whose rows a model makes.

    `rows` is a SELECT over the tables that it names; `row_id` names a row that is set aside. `maker` is the function
    that made it of `arguments`, for `remade`.
    """

    table: str
    rows: str
    row_id: "Callable[[Row], str]"
    recipe: "Recipe"
    maker: str = ""
    arguments: tuple[Any, ...] = ()


class ModelRole(StrEnum):
    """The model that a stage asks."""

    policy = "policy"
    feedback_model = "feedback_model"
    sl_cai_model = "sl_cai_model"


@dataclass(frozen=True)
class PlannedStage:
    """A stage as a plan makes it: of the settings of the profile and of a constitution."""

    role: ModelRole
    make: Callable[[Settings, Constitution], Stage]


STAGES: dict[str, PlannedStage] = {}
"""The stage of each table that one model writes for one version, by the table's name; `planned` adds one."""

MakesStage = TypeVar("MakesStage", bound=Callable[..., Stage])

MAKERS: dict[str, Callable[..., Stage]] = {}
"""The functions that make stages, by name; `stage_maker` adds one."""


def stage_maker(make: MakesStage) -> MakesStage:
    """Decorator of a function that makes a stage: another process can make the same one."""

    @wraps(make)
    def made(*arguments: Any) -> Stage:
        return replace(make(*arguments), maker=make.__name__, arguments=arguments)

    MAKERS[make.__name__] = made
    return cast("MakesStage", made)


def remade(maker: str, arguments: bytes) -> Stage:
    """The stage whose arguments another process has `encoded`."""
    make = MAKERS[maker]
    types = get_type_hints(make)
    kinds = tuple(types[name] for name in signature(make).parameters)
    return make(*decoded(arguments, tuple[kinds]))  # pyright: ignore[reportInvalidTypeForm, reportUnknownArgumentType]


def planned(
    table: str, role: ModelRole, arguments: Callable[[Settings, Constitution], tuple[Any, ...]]
) -> Callable[[MakesStage], MakesStage]:
    """Decorator of the function that makes a table's stage: a plan counts the calls of the stage.

    `arguments` are those that the function takes of a profile's settings and a constitution.
    """

    def add(make: MakesStage) -> MakesStage:
        made = stage_maker(make)
        STAGES[table] = PlannedStage(role, lambda settings, constitution: made(*arguments(settings, constitution)))
        return made

    return add


@planned("initial_responses", ModelRole.policy, lambda settings, _: (settings.initial_responses,))
def initial_responses_stage(settings: InitialResponsesSettings) -> Stage:
    """y^0: the policy's own answers to each prompt, before any principle has been applied."""
    return _responses_stage("initial_responses", "SELECT prompt_id, messages FROM prompts ORDER BY prompt_id", settings)


@planned("teacher_responses", ModelRole.feedback_model, lambda settings, _: (settings.initial_responses,))
def teacher_responses_stage(settings: InitialResponsesSettings) -> Stage:
    """The feedback model's own answers to the prompts of the split `sft` (Sharma et al. 2024)."""
    rows = "SELECT prompt_id, messages FROM prompts WHERE split = 'sft' ORDER BY prompt_id"
    return _responses_stage("teacher_responses", rows, settings)


def _responses_stage(table: str, rows: str, settings: InitialResponsesSettings) -> Stage:
    system = (Message("system", settings.system_prompt),) if settings.system_prompt else ()
    sampling = settings.sampling

    async def respond(model: LanguageModel, row: "Row") -> "list[Row]":
        messages = to_messages(row["messages"])
        if messages[0].role != "system":
            messages = (*system, *messages)
        responses: list[Row] = []
        for sample in range(settings.samples):
            slot = Slot(table, row["prompt_id"], sample=sample)
            completion = await model.complete(Request(messages, slot, sampling))
            responses.append(
                {
                    "prompt_id": row["prompt_id"],
                    "sample": sample,
                    "completion": completion.text,
                    "reasoning": completion.reasoning,
                    "finish_reason": completion.finish_reason,
                    "request_id": completion.request_id,
                    "policy_model": model.model_id,
                }
            )
        return responses

    return Stage(
        table=table,
        rows=rows,
        row_id=lambda row: row["prompt_id"],
        recipe=respond,
    )


@planned("revision_rounds", ModelRole.policy, lambda settings, constitution: (constitution, settings.revision_rounds))
def revision_rounds_stage(constitution: Constitution, settings: RevisionRoundsSettings) -> Stage:
    """y^1 … y^n of every first response."""

    async def rounds(model: LanguageModel, row: "Row") -> "list[Row]":
        prompt_id, sample, prompt = row["prompt_id"], row["sample"], to_messages(row["messages"])
        revised = await revise(model, constitution, prompt_id, sample, prompt, row["completion"], settings)
        return [{"prompt_id": prompt_id, "sample": sample, **made.to_row()} for made in revised]

    splits = ", ".join(f"'{split}'" for split in settings.splits)
    return Stage(
        table="revision_rounds",
        rows=f"""
            SELECT prompt_id, sample, messages, completion FROM initial_responses JOIN prompts USING (prompt_id)
            WHERE list_contains([{splits}], split) ORDER BY prompt_id, sample
        """,
        row_id=lambda row: f"{row['prompt_id']}/{row['sample']}",
        recipe=rounds,
    )


@planned("response_pairs", ModelRole.sl_cai_model, lambda settings, _: (settings.response_pairs,))
def response_pairs_stage(settings: ResponsePairsSettings) -> Stage:
    """Pairs sampled from the fine-tuned policy."""

    async def sample(model: LanguageModel, row: "Row") -> "list[Row]":
        return [*await sample_pairs(model, row["prompt_id"], to_messages(row["messages"]), settings)]

    return Stage(
        table="response_pairs",
        rows="SELECT prompt_id, messages FROM prompts WHERE split IN ('preference', 'evaluation') ORDER BY prompt_id",
        row_id=lambda row: row["prompt_id"],
        recipe=sample,
    )


@planned("judgements", ModelRole.feedback_model, lambda settings, constitution: (constitution, settings.judgements))
def judgements_stage(constitution: Constitution, settings: JudgementsSettings) -> Stage:
    """What the feedback model says of each pair whose completions differ."""

    async def compare(model: LanguageModel, row: "Row") -> "list[Row]":
        pair = Pair(
            row["pair_id"],
            row["prompt_id"],
            to_messages(row["messages"]),
            row["completion_0"],
            row["completion_1"],
            revision_request_id=row["request_id_1"] if row["source"] == PairSource.revisions else None,
        )
        judged = await judge(model, constitution, pair, settings)
        return [{"pair_id": pair.pair_id, "feedback_model": model.model_id, **made.to_row()} for made in judged]

    return Stage(
        table="judgements",
        rows="""
            SELECT pair_id, prompt_id, messages, completion_0, completion_1, p.source, request_id_1
            FROM response_pairs p JOIN prompts USING (prompt_id) WHERE completion_0 <> completion_1 ORDER BY pair_id
        """,
        row_id=lambda row: row["pair_id"],
        recipe=compare,
    )


@planned("best_of_n_candidates", ModelRole.sl_cai_model, lambda settings, _: (settings.best_of_n_candidates,))
def best_of_n_candidates_stage(settings: BestOfNSettings) -> Stage:
    """The n completions of the fine-tuned policy to each preference and evaluation prompt."""

    async def sample(model: LanguageModel, row: "Row") -> "list[Row]":
        return [*await sample_candidates(model, row["prompt_id"], to_messages(row["messages"]), settings)]

    return Stage(
        table="best_of_n_candidates",
        rows="SELECT prompt_id, messages FROM prompts WHERE split IN ('preference', 'evaluation') ORDER BY prompt_id",
        row_id=lambda row: row["prompt_id"],
        recipe=sample,
    )


@stage_maker
def policy_responses_stage(policy: str, settings: PolicyResponsesSettings) -> Stage:
    """What a policy answers to the evaluation prompts; where a table has its answers already, those."""
    given = given_answers(policy, settings.max_prompts)

    async def respond(model: LanguageModel, row: "Row") -> "list[Row]":
        if given:
            return [row]
        return [await answer(model, policy, row["prompt_id"], to_messages(row["messages"]), settings)]

    prompts = "SELECT prompt_id, messages FROM prompts WHERE split = 'evaluation' ORDER BY prompt_id"
    return Stage(
        table="policy_responses",
        rows=given or f"{prompts} LIMIT {settings.max_prompts}",
        row_id=lambda row: f"{policy}/{row['prompt_id']}",
        recipe=respond,
    )


@stage_maker
def policy_judgements_stage(constitution: Constitution, settings: JudgementsSettings) -> Stage:
    """What the feedback model says of the answers of each two policies to each prompt, in both orders."""
    settings = _with_a_judge(settings).model_copy(update={"both_orders": True})

    async def compare(model: LanguageModel, row: "Row") -> "list[Row]":
        pair = pair_to_judge(row)
        judged = await judge(model, constitution, pair, settings)
        compared = {name: row[name] for name in ("policy_0", "policy_1", "prompt_id")}
        compared["pair_id"] = pair.pair_id
        return [{**compared, "feedback_model": model.model_id, **made.to_row()} for made in judged]

    return Stage(
        table="policy_judgements",
        rows=COMPARED,
        row_id=lambda row: f"{row['policy_0']}/{row['policy_1']}/{row['prompt_id']}",
        recipe=compare,
    )


@stage_maker
def version_judgements_stage(
    constitutions: Sequence[Constitution], settings: JudgementsSettings, comparison: ConstitutionDiffSettings
) -> Stage:
    """What the feedback model says of the final revisions of two versions that differ, in both orders.

    Under the principles of each version, since a version's own are kind to it; what they share is asked once.
    A larger sample keeps the pairs of a smaller one, and so its calls.
    """
    settings = _with_a_judge(settings).model_copy(update={"both_orders": True})
    against = constitutions[0].version

    async def compare(model: LanguageModel, row: "Row") -> "list[Row]":
        pair = pair_to_judge(row)
        names = {"against": against, "prompt_id": row["prompt_id"], "sample": row["sample"], "pair_id": pair.pair_id}
        return [
            {**names, "judged_by": constitution.version, "feedback_model": model.model_id, **made.to_row()}
            for constitution in constitutions
            for made in await judge(model, constitution, pair, settings)
        ]

    return Stage(
        table="version_judgements",
        rows=f"""
            SELECT prompt_id, sample, messages, one.revision AS completion_0, other.revision AS completion_1
            FROM ({_final("revision_rounds_before")}) one JOIN ({_final("revision_rounds")}) other
                USING (prompt_id, sample)
            JOIN prompts USING (prompt_id) WHERE one.revision <> other.revision
            ORDER BY md5('{comparison.sample_seed}/' || prompt_id || '/' || sample), prompt_id, sample
            LIMIT {comparison.max_pairs}
        """,
        row_id=lambda row: f"{row['prompt_id']}/{row['sample']}",
        recipe=compare,
    )


def _final(rounds: str) -> str:
    """The last round of every response."""
    return f"FROM {rounds} QUALIFY round = max(round) OVER (PARTITION BY prompt_id, sample)"


@planned(
    "calibration_judgements",
    ModelRole.feedback_model,
    lambda settings, constitution: (
        constitution,
        settings.judge_calibration.judging(settings.judgements),
        settings.judge_calibration,
    ),
)
def calibration_stage(
    constitution: Constitution, settings: JudgementsSettings, calibration: JudgeCalibrationSettings
) -> Stage:
    """What the feedback model says of pairs that people have compared: the recipe of `judgements`, on a sample.

    A larger sample keeps the pairs of a smaller one, and so its calls.
    """
    settings = _with_a_judge(settings)

    async def compare(model: LanguageModel, row: "Row") -> "list[Row]":
        texts = in_hash_order(*(row[name][0]["content"] for name in ("chosen", "rejected")))
        pair = Pair(row["pair_id"], row["prompt_id"], to_messages(row["prompt"]), *texts)
        judged = await judge(model, constitution, pair, settings)
        return [{"pair_id": pair.pair_id, "feedback_model": model.model_id, **made.to_row()} for made in judged]

    return Stage(
        table="calibration_judgements",
        rows=f"""
            SELECT pair_id, prompt_id, prompt, chosen, rejected FROM human_preferences
            ORDER BY md5('{calibration.sample_seed}/' || pair_id), pair_id LIMIT {calibration.max_pairs}
        """,
        row_id=lambda row: row["pair_id"],
        recipe=compare,
    )


def _with_a_judge(settings: JudgementsSettings) -> JudgementsSettings:
    """The settings, with a judge where the method `direct` asks none: what is compared here are no revisions."""
    if settings.method != JudgingMethod.direct:
        return settings
    return settings.model_copy(update={"method": JudgingMethod.one_principle})
