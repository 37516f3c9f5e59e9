"""Which column is made from which: declared once, as plain data, for the UI, the commands and their tests.

A column that a model wrote names what the model was shown. It knows neither Dagster nor the tables' types, so it can be
read by who has no time to import them.
"""

from collections.abc import Mapping
from enum import StrEnum


class Origin(StrEnum):
    """Where a column begins that is made from no other column."""

    file = "read from a file"
    model = "said by a model"
    computed = "computed here"


Sources = Origin | tuple[str, ...]
"""An origin, or the columns it is made from, each as `table.column`."""

_PAIR = ("response_pairs.completion_0", "response_pairs.completion_1")
_JUDGED_BY = ("constitution.comparison_request", "constitution.comparisons", "prompts.messages")
_SAMPLED: Mapping[str, Sources] = {
    "prompt_id": ("prompts.prompt_id",),
    "sample": Origin.computed,
    "completion": ("prompts.messages",),
    "finish_reason": Origin.model,
    "request_id": Origin.model,
}
_VERSION: Mapping[str, Sources] = {"constitution_version": ("constitution.constitution_version",)}


def _judged(pair_id: str, *shown: str) -> dict[str, Sources]:
    """The columns of a table of judgements; `shown` are what the feedback model saw beside the principle."""
    said = (*shown, *_JUDGED_BY)
    answers = ("logp_a", "logp_b", "rationale", "score_logprobs_0", "score_logprobs_1", "score_0", "score_1")
    calls = ("feedback_model", "request_id", "rationale_finish_reason", "rationale_request_id", "score_request_ids")
    return {
        **_VERSION,
        "pair_id": (pair_id,),
        "principle_id": ("constitution.principle_id",),
        "order": Origin.computed,
        "method": Origin.computed,
        "principle_ids": ("constitution.principle_id",),
        "principle_weight": ("constitution.weight",),
        **dict.fromkeys(answers, said),
        **dict.fromkeys(calls, Origin.model),
    }


def _checkpoint(base: str | None, *trained_on: str) -> dict[str, Sources]:
    """The columns of a table of checkpoints: everything follows from the rows and the base model."""
    made_from = (*trained_on, *([f"{base}.checkpoint_key"] if base else ()))
    return {
        **_VERSION,
        "checkpoint_key": made_from,
        "path": made_from,
        "base_model": (f"{base}.checkpoint_key",) if base else Origin.file,
        "rows": trained_on,
        "record": made_from,
    }


def _measured(columns: str, *measured_on: str) -> dict[str, Sources]:
    return dict.fromkeys(columns.split(), measured_on)


_TRAINING_PAIRS = tuple(f"preference_pairs.{name}" for name in ("prompt", "chosen", "rejected", "p_chosen"))
_HUMAN_PAIRS = tuple(
    f"human_preferences.{name}" for name in ("prompt", "chosen", "rejected", "votes_chosen", "votes_rejected")
)
_VERDICTS = ("calibration_judgements.logp_a", "calibration_judgements.logp_b", *_HUMAN_PAIRS[1:])

COLUMN_LINEAGE: Mapping[str, Mapping[str, Sources]] = {
    "constitution": dict.fromkeys(
        (
            *("constitution_version", "principle_id", "slug", "critique_request", "revision_request"),
            *("comparison_request", "weight", "tags", "dialogues", "comparisons"),
        ),
        Origin.file,
    ),
    "prompts": {
        **dict.fromkeys(("messages", "source", "sources", "category"), Origin.file),
        **dict.fromkeys(("prompt_id", "split"), Origin.computed),
    },
    "initial_responses": {**_SAMPLED, "policy_model": Origin.model},
    "teacher_responses": {**_SAMPLED, "policy_model": Origin.model},
    "revision_rounds": {
        **_VERSION,
        "prompt_id": ("initial_responses.prompt_id",),
        "sample": ("initial_responses.sample",),
        "round": Origin.computed,
        "principle_id": ("constitution.principle_id", "constitution.slug", "constitution.weight"),
        "response": ("initial_responses.completion",),
        "critique": (
            *("prompts.messages", "initial_responses.completion"),
            *("constitution.critique_request", "constitution.dialogues"),
        ),
        "revision": (
            *("prompts.messages", "initial_responses.completion"),
            *("constitution.critique_request", "constitution.revision_request", "constitution.dialogues"),
        ),
        **dict.fromkeys(
            ("critique_finish_reason", "revision_finish_reason", "critique_request_id", "revision_request_id"),
            Origin.model,
        ),
    },
    "sft_dataset": {
        **{name: (f"revision_rounds.{name}",) for name in ("constitution_version", "prompt_id", "sample", "round")},
        "messages": ("prompts.messages", "revision_rounds.revision"),
    },
    "sl_cai_model": _checkpoint(None, "sft_dataset.messages"),
    "response_pairs": {
        **_VERSION,
        "pair_id": Origin.computed,
        "prompt_id": ("prompts.prompt_id",),
        "source": Origin.computed,
        "completion_0": ("prompts.messages", "sl_cai_model.checkpoint_key", "initial_responses.completion"),
        "completion_1": ("prompts.messages", "sl_cai_model.checkpoint_key", "revision_rounds.revision"),
        "finish_reason_0": ("initial_responses.finish_reason",),
        "finish_reason_1": ("revision_rounds.revision_finish_reason",),
        "request_id_0": ("initial_responses.request_id",),
        "request_id_1": ("revision_rounds.revision_request_id",),
    },
    "judgements": _judged("response_pairs.pair_id", *_PAIR),
    "preference_pairs": {
        **_VERSION,
        **{name: (f"response_pairs.{name}",) for name in ("pair_id", "prompt_id", "source")},
        "prompt": ("prompts.messages",),
        **dict.fromkeys(("chosen", "rejected"), (*_PAIR, "judgements.logp_a", "judgements.logp_b")),
        "p_chosen": (
            "judgements.logp_a",
            "judgements.logp_b",
            "judgements.order",
            "judgements.principle_id",
            "judgements.principle_weight",
        ),
        "label_policy": Origin.computed,
        "split": ("prompts.split",),
    },
    "reward_model": _checkpoint("sl_cai_model", *_TRAINING_PAIRS, "preference_pairs.split", *_HUMAN_PAIRS),
    "reward_model_evaluation": {
        **_VERSION,
        "checkpoint_key": ("reward_model.checkpoint_key",),
        "slice": Origin.computed,
        "slice_value": ("constitution.slug",),
        **_measured(
            "pairs longer_wins_accuracy longer_wins_low longer_wins_high constant_log_loss",
            *_TRAINING_PAIRS,
            "preference_pairs.split",
        ),
        **_measured(
            "accuracy log_loss brier_score calibration_error length_correlation accuracy_low accuracy_high reward_low "
            "reward_high chosen_rewards rejected_rewards",
            "reward_model.checkpoint_key",
            *_TRAINING_PAIRS,
            "preference_pairs.split",
        ),
    },
    "human_preferences": {
        **dict.fromkeys(
            ("prompt", "chosen", "rejected", "votes_chosen", "votes_rejected", "category", "source"), Origin.file
        ),
        **dict.fromkeys(("pair_id", "prompt_id", "split"), Origin.computed),
    },
    "calibration_judgements": {
        **_judged("human_preferences.pair_id", *_HUMAN_PAIRS[:3]),
        **dict.fromkeys(
            ("logp_a", "logp_b", "rationale", "score_logprobs_0", "score_logprobs_1", "score_0", "score_1"),
            (*_HUMAN_PAIRS[:3], *_JUDGED_BY[:2]),
        ),
    },
    "judge_calibration": {
        **_VERSION,
        "slice": Origin.computed,
        "slice_value": ("human_preferences.category", "constitution.slug"),
        "feedback_model": ("calibration_judgements.feedback_model",),
        "pairs": ("calibration_judgements.pair_id",),
        **_measured(
            "agreement agreement_low agreement_high log_loss brier_score calibration_error longer_preferred "
            "length_bias bias",
            *_VERDICTS,
        ),
        **_measured(
            "position_bias order_agreement principle_agreement label_mass noise_orders noise_principles noise_repeats "
            "noise",
            "calibration_judgements.logp_a",
            "calibration_judgements.logp_b",
            "calibration_judgements.order",
            "calibration_judgements.principle_id",
        ),
    },
    "teacher_sft_model": {
        **_checkpoint(None, "teacher_responses.completion", "prompts.messages"),
        "constitution_version": Origin.computed,  # the same for every version: it reads none
    },
    "dpo_model": _checkpoint("sl_cai_model", *_TRAINING_PAIRS, "preference_pairs.split"),
    "rlaif_model": _checkpoint("sl_cai_model", "prompts.messages", "prompts.split", "reward_model.checkpoint_key"),
    "best_of_n_candidates": {
        **_VERSION,
        **_SAMPLED,
        "completion": ("prompts.messages", "sl_cai_model.checkpoint_key"),
    },
    "best_of_n": {
        **_VERSION,
        "prompt_id": ("best_of_n_candidates.prompt_id",),
        "n": ("best_of_n_candidates.sample",),
        **{
            name: (f"best_of_n_candidates.{name}", "best_of_n_candidates.completion", "reward_model.checkpoint_key")
            for name in ("sample", "finish_reason", "request_id")
        },
        **_measured("completion reward mean_reward", "best_of_n_candidates.completion", "reward_model.checkpoint_key"),
        "reward_model": ("reward_model.checkpoint_key",),
    },
    "policy_responses": {
        **_VERSION,
        "policy": Origin.computed,
        "prompt_id": ("prompts.prompt_id",),
        "completion": (
            *("prompts.messages", "initial_responses.completion", "revision_rounds.revision", "best_of_n.completion"),
            *(f"{name}_model.checkpoint_key" for name in ("sl_cai", "dpo", "rlaif", "teacher_sft")),
        ),
        "finish_reason": Origin.model,
        "request_id": Origin.model,
    },
    "policy_judgements": {
        **_judged("policy_responses.completion", "policy_responses.completion"),
        "policy_0": ("policy_responses.policy",),
        "policy_1": ("policy_responses.policy",),
        "prompt_id": ("policy_responses.prompt_id",),
    },
    "policy_evaluation": {
        **_VERSION,
        **_measured("policy opponent prompts mean_length refusal_rate identical", "policy_responses.completion"),
        **_measured(
            "win_rate win_rate_low win_rate_high p_better",
            "policy_judgements.logp_a",
            "policy_judgements.logp_b",
            "policy_judgements.order",
        ),
        **_measured(
            "mean_reward mean_reward_low mean_reward_high",
            "reward_model.checkpoint_key",
            "policy_responses.completion",
        ),
    },
    "version_judgements": {
        **_judged("revision_rounds.revision", "revision_rounds.revision"),
        "against": Origin.computed,
        "judged_by": ("constitution.constitution_version",),
        "prompt_id": ("revision_rounds.prompt_id",),
        "sample": ("revision_rounds.sample",),
    },
    "constitution_diff": {
        **_VERSION,
        "against": Origin.computed,
        "section": Origin.computed,
        "name": ("constitution.slug", "reward_model_evaluation.slice_value", "policy_evaluation.policy"),
        "measure": Origin.computed,
        **_measured(
            "before after low high",
            *(
                f"constitution.{name}"
                for name in ("weight", "critique_request", "revision_request", "comparison_request")
            ),
            *("revision_rounds.revision", "sft_dataset.messages", "response_pairs.pair_id"),
            *("judgements.logp_a", "judgements.logp_b", "preference_pairs.p_chosen", "preference_pairs.chosen"),
            *("version_judgements.logp_a", "version_judgements.logp_b"),
            *(
                f"reward_model_evaluation.{name}"
                for name in (
                    *("pairs", "accuracy", "accuracy_low", "accuracy_high"),
                    *("log_loss", "calibration_error", "length_correlation"),
                )
            ),
            *(f"policy_evaluation.{name}" for name in ("prompts", "win_rate", "win_rate_low", "win_rate_high")),
        ),
        "note": ("constitution.principle_id", "constitution.weight", "constitution.tags"),
    },
    "cost_plan": {
        **dict.fromkeys(
            (
                *("constitution_version", "asset", "calls", "in_ledger", "new", "exact"),
                *("tokens_estimate", "tokens_low", "tokens_high", "seconds_estimate"),
            ),
            Origin.computed,
        ),
    },
}


def columns_made_from(table: str) -> dict[str, list[tuple[str, str]]]:
    """Column → the columns it is made from, as (table, column); columns that begin here are left out."""
    lineage = COLUMN_LINEAGE.get(table, {})
    return {
        column: [(source.split(".")[0], source.split(".")[1]) for source in sources]
        for column, sources in lineage.items()
        if not isinstance(sources, Origin)
    }


def tables_with(*columns: str) -> list[str]:
    """The tables of the graph that have all these columns."""
    return [table for table, lineage in COLUMN_LINEAGE.items() if lineage.keys() >= set(columns)]
