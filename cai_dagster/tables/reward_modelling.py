"""The reward model and its evaluation."""

from cai_dagster.tables.column_types import ColumnType as T
from cai_dagster.tables.shared_columns import HUMAN_PAIRS, LABELLED_PAIRS, VERSION, checkpoint_columns
from cai_dagster.tables.table import COMPUTED, Column, Maker, Table

REWARD_MODEL = Table(
    "reward_model",
    "The checkpoint in use for a version.",
    trained_on=("preference_pairs", "human_preferences"),
    group="reward_modelling",
    maker=Maker.training,
    key=("constitution_version",),
    reads=(
        "constitution",
        "human_preferences",
        "judgements",
        "preference_pairs",
        "prompts",
        "response_pairs",
        "sl_cai_model",
    ),
    columns=checkpoint_columns("sl_cai_model", (*LABELLED_PAIRS, *HUMAN_PAIRS)),
)

REWARD_MODEL_EVALUATION = Table(
    "reward_model_evaluation",
    "A reward model against the labels of pairs whose prompts it never saw; one row a slice of them.",
    group="reward_modelling",
    maker=Maker.scoring,
    key=("constitution_version", "slice", "slice_value"),
    reads=(
        "constitution",
        "human_preferences",
        "judgements",
        "preference_pairs",
        "prompts",
        "response_pairs",
        "reward_model",
    ),
    columns=(
        VERSION,
        Column(
            "checkpoint_key",
            T.identifier,
            "Hash of base model, rows, settings, code version.",
            "reward_model.checkpoint_key",
        ),
        Column("pairs", T.integer, "Pairs in the slice.", LABELLED_PAIRS, ge=1),
        Column(
            "accuracy",
            T.number,
            "Share of pairs in which the chosen one has the higher reward.",
            ("reward_model.checkpoint_key", *LABELLED_PAIRS),
            ge=0,
            le=1,
        ),
        Column(
            "log_loss",
            T.number,
            "Cross entropy against the soft label, in nats.",
            ("reward_model.checkpoint_key", *LABELLED_PAIRS),
            ge=0,
        ),
        Column(
            "constant_log_loss", T.number, "The same for a model that always says one half: ln 2.", LABELLED_PAIRS, ge=0
        ),
        Column(
            "brier_score",
            T.number,
            "Mean squared error; 0.25 says nothing.",
            ("reward_model.checkpoint_key", *LABELLED_PAIRS),
            ge=0,
            le=1,
        ),
        Column(
            "calibration_error",
            T.number,
            "Expected calibration error over ten bins.",
            ("reward_model.checkpoint_key", *LABELLED_PAIRS),
            ge=0,
            le=1,
        ),
        Column(
            "length_correlation",
            T.number,
            "Spearman's ρ of reward and characters.",
            ("reward_model.checkpoint_key", *LABELLED_PAIRS),
            nullable=True,
        ),
        Column(
            "longer_wins_accuracy", T.number, "The baseline that prefers the longer one.", LABELLED_PAIRS, ge=0, le=1
        ),
        Column(
            "slice",
            T.text,
            "Which pairs: all, principle, labelled_by, benchmark_subset, benchmark_category or benchmark. The labels "
            "are those of the slice: one principle's, people's, the file's.",
            COMPUTED,
        ),
        Column(
            "slice_value",
            T.text,
            "The principle's slug, human, or the benchmark's name and subset.",
            "constitution.slug",
            nullable=True,
        ),
        Column(
            "accuracy_low",
            T.number,
            "95 % bootstrap interval over prompts.",
            ("reward_model.checkpoint_key", *LABELLED_PAIRS),
            ge=0,
            le=1,
            nullable=True,
        ),
        Column(
            "accuracy_high",
            T.number,
            "Its upper end.",
            ("reward_model.checkpoint_key", *LABELLED_PAIRS),
            ge=0,
            le=1,
            nullable=True,
        ),
        Column(
            "longer_wins_low", T.number, "The same for longer_wins_accuracy.", LABELLED_PAIRS, ge=0, le=1, nullable=True
        ),
        Column("longer_wins_high", T.number, "Its upper end.", LABELLED_PAIRS, ge=0, le=1, nullable=True),
        Column(
            "reward_low",
            T.number,
            "The lowest reward.",
            ("reward_model.checkpoint_key", *LABELLED_PAIRS),
            nullable=True,
        ),
        Column(
            "reward_high",
            T.number,
            "The highest reward.",
            ("reward_model.checkpoint_key", *LABELLED_PAIRS),
            nullable=True,
        ),
        Column(
            "chosen_rewards",
            T.integers,
            "Pairs by the reward of chosen, in 20 bins of equal width from reward_low to reward_high.",
            ("reward_model.checkpoint_key", *LABELLED_PAIRS),
            nullable=True,
        ),
        Column(
            "rejected_rewards",
            T.integers,
            "Pairs by the reward of rejected, in the same bins.",
            ("reward_model.checkpoint_key", *LABELLED_PAIRS),
            nullable=True,
        ),
    ),
)
