"""The graph's edges, for who cannot wait for the graph to be loaded: which tables each table is made of.

A test holds it to the assets. It knows no Dagster.
"""

UPSTREAM: dict[str, tuple[str, ...]] = {
    "constitution": (),
    "prompts": (),
    "initial_responses": ("prompts",),
    "revision_rounds": ("constitution", "initial_responses", "prompts"),
    "sft_dataset": ("prompts", "revision_rounds"),
    "sl_cai_model": ("prompts", "revision_rounds", "sft_dataset"),
    "response_pairs": ("initial_responses", "prompts", "revision_rounds", "sl_cai_model"),
    "judgements": ("constitution", "prompts", "response_pairs"),
    "human_preferences": (),
    "calibration_judgements": ("constitution", "human_preferences"),
    "judge_calibration": ("calibration_judgements", "constitution", "human_preferences"),
    "preference_pairs": ("judge_calibration", "judgements", "prompts", "response_pairs"),
    "reward_model": (
        *("constitution", "human_preferences", "judgements", "preference_pairs", "prompts"),
        *("response_pairs", "sl_cai_model"),
    ),
    "reward_model_evaluation": (
        *("constitution", "human_preferences", "judgements", "preference_pairs", "prompts"),
        *("response_pairs", "reward_model"),
    ),
    "teacher_responses": ("prompts",),
    "teacher_sft_model": ("prompts", "teacher_responses"),
    "dpo_model": ("preference_pairs", "sl_cai_model"),
    "rlaif_model": ("constitution", "prompts", "reward_model", "sl_cai_model"),
    "best_of_n_candidates": ("prompts", "sl_cai_model"),
    "best_of_n": ("best_of_n_candidates", "constitution", "prompts", "reward_model"),
    "policy_responses": (
        *("best_of_n", "dpo_model", "initial_responses", "prompts", "revision_rounds", "rlaif_model"),
        *("sl_cai_model", "teacher_sft_model"),
    ),
    "policy_judgements": ("constitution", "policy_responses", "prompts"),
    "policy_evaluation": ("constitution", "policy_judgements", "policy_responses", "prompts", "reward_model"),
    "version_judgements": ("constitution", "prompts", "revision_rounds"),
}
"""Each after those that it is made of."""

SHARED = frozenset({"prompts", "human_preferences", "initial_responses", "teacher_responses"})
"""They know no constitution: one table for all versions."""

ON_DEMAND = frozenset(
    {
        *("teacher_responses", "teacher_sft_model", "dpo_model", "rlaif_model", "best_of_n_candidates", "best_of_n"),
        *("policy_responses", "policy_judgements", "policy_evaluation", "version_judgements"),
    }
)
"""Neither `cai demo` nor a plan has them."""
