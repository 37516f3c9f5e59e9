"""The feedback model against people."""

from cai_dagster.tables.column_types import ColumnType as T
from cai_dagster.tables.shared_columns import HUMAN_PAIRS, VERSION, judgement_columns
from cai_dagster.tables.table import COMPUTED, Column, Maker, Table

_VERDICTS = ("calibration_judgements.logp_a", "calibration_judgements.logp_b", *HUMAN_PAIRS[1:])
_EVIDENCE = tuple(f"calibration_judgements.{name}" for name in ("logp_a", "logp_b", "order", "principle_id"))

CALIBRATION_JUDGEMENTS = Table(
    "calibration_judgements",
    "What the feedback model said of a human-labelled pair: as in judgements, which has the columns.",
    group="feedback_stage",
    maker=Maker.model,
    call_stage="judgements",
    key=("constitution_version", "pair_id", "principle_id", "order"),
    reads=("constitution", "human_preferences"),
    preview="SELECT prompt[-1].content AS prompt, chosen[-1].content AS chosen, rejected[-1].content AS rejected, "
    '"order", exp(logp_a) AS "P(A)", exp(logp_b) AS "P(B)", slug AS principle FROM calibration_judgements '
    "LEFT JOIN human_preferences USING (pair_id) LEFT JOIN constitution USING (principle_id)",
    columns=judgement_columns(
        "human_preferences.pair_id",
        (
            "human_preferences.prompt",
            "human_preferences.chosen",
            "human_preferences.rejected",
            "constitution.comparison_request",
            "constitution.comparisons",
        ),
    ),
)

JUDGE_CALIBRATION = Table(
    "judge_calibration",
    "The feedback model against humans, one slice of the pairs a row; docs/calibration.md defines each number.",
    group="feedback_stage",
    maker=Maker.computation,
    key=("constitution_version", "slice", "slice_value"),
    reads=("calibration_judgements", "constitution", "human_preferences"),
    columns=(
        VERSION,
        Column(
            "slice",
            T.text,
            "all: labels averaged over their principles; one_principle: each principle's label alone; "
            "category, principle: of one of them; humans: people against each other, where several voted.",
            COMPUTED,
            isin=("all", "one_principle", "category", "principle", "humans"),
        ),
        Column(
            "slice_value",
            T.text,
            "The category, or the principle's slug; empty where the kind says all.",
            ("human_preferences.category", "constitution.slug"),
        ),
        Column(
            "feedback_model",
            T.text,
            "Identity of the weights that judged; humans in the slice humans.",
            "calibration_judgements.feedback_model",
        ),
        Column("pairs", T.integer, "Pairs in the slice.", "calibration_judgements.pair_id", ge=1),
        Column("agreement", T.number, "Chance to name the completion that a human names.", _VERDICTS, ge=0, le=1),
        Column("agreement_low", T.number, "95 % bootstrap interval; null for a single pair.", _VERDICTS, nullable=True),
        Column("agreement_high", T.number, "Its upper end.", _VERDICTS, nullable=True),
        Column("log_loss", T.number, "In nats; ln 2 says nothing.", _VERDICTS, ge=0, nullable=True),
        Column("brier_score", T.number, "Mean squared error; 0.25 says nothing.", _VERDICTS, ge=0, le=1, nullable=True),
        Column(
            "calibration_error",
            T.number,
            "Expected, over ten bins of confidence.",
            _VERDICTS,
            ge=0,
            le=1,
            nullable=True,
        ),
        Column(
            "position_bias", T.number, "Share of verdicts with the same letter after a swap.", _EVIDENCE, nullable=True
        ),
        Column("longer_preferred", T.number, "How often the longer completion is preferred.", _VERDICTS, nullable=True),
        Column("length_bias", T.number, "longer_preferred minus the same of the humans.", _VERDICTS, nullable=True),
        Column("order_agreement", T.number, "Share of verdicts that both orders share.", _EVIDENCE, nullable=True),
        Column(
            "principle_agreement", T.number, "Chance that two principles agree on a pair.", _EVIDENCE, nullable=True
        ),
        Column("label_mass", T.number, "Mean of P(A) + P(B).", _EVIDENCE, nullable=True),
        Column("noise_orders", T.number, "Variance of P between the orders.", _EVIDENCE, ge=0, nullable=True),
        Column("noise_principles", T.number, "Variance of P between the principles.", _EVIDENCE, ge=0, nullable=True),
        Column("noise_repeats", T.number, "Variance of a verdict drawn from P.", _EVIDENCE, ge=0, nullable=True),
        Column(
            "noise",
            T.number,
            "Variance of one verdict: the sum of what is known of it.",
            _EVIDENCE,
            ge=0,
            nullable=True,
        ),
        Column("bias", T.number, "Mean squared distance of P from the humans' consensus.", _VERDICTS, nullable=True),
    ),
)
