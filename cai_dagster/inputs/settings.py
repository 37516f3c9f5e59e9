"""Settings of what users bring: prompts, preference files, evaluation sets."""

from enum import StrEnum

from pydantic import Field, model_validator

from cai_dagster.inputs.preference_formats import PreferenceFormat
from cai_dagster.strict_model import StrictModel


class Split(StrEnum):
    """The side a prompt is on."""

    sft = "sft"
    preference = "preference"
    evaluation = "evaluation"


class LastAnswer(StrEnum):
    """What becomes of an answer at the end of a dialogue of which the prompt is taken."""

    refuse = "refuse"
    leave_out = "leave_out"


class PreferenceColumns(StrictModel):
    """What the columns of a preference pair are called."""

    prompt_column: str = Field(min_length=1, description="Column with the prompt as one text.")
    chosen_column: str = Field(
        min_length=1, description="Preference files: column with the preferred completion, conversation or transcript."
    )
    rejected_column: str = Field(min_length=1, description="Preference files: column with the other one.")


class PreferenceFilesSettings(PreferenceColumns):
    """Preference data sets and how their rows are read."""

    sources: list[str] = Field(
        description="Files with preference pairs (.jsonl, .csv, .json, .parquet; .gz or .zst), folders of such files, "
        "or Hugging Face dataset folders; relative paths count from the project folder.",
    )
    format: PreferenceFormat = Field(
        description="auto: recognised from each row. hh_rlhf: transcripts with Human: and Assistant:. trl_explicit, "
        "ultrafeedback, rewardbench: a prompt and two completions, or lists of them. trl_implicit: two conversations "
        "that share their beginning. kto: a prompt, a completion and a label. nemo: a context and ranked completions. "
        "judgebench: a question, two responses and a label.",
    )


class DecontaminationSettings(StrictModel):
    """What nobody may train on."""

    evaluation_sets: list[str] = Field(
        description="Files or folders with evaluation sets. A prompt that shares thirteen words in a row with a text "
        "in them, or a shorter one that equals a text, is rejected.",
    )


class PromptsSettings(PreferenceColumns):
    """Where prompts come from and how they are divided."""

    sources: list[str] = Field(
        min_length=1,
        description="Files (.jsonl, .csv, .txt, .json, .parquet; .gz or .zst), folders of such files, or Hugging Face "
        "dataset folders; relative paths count from the project folder. Of preference pairs the prompt is taken.",
    )
    prompt_column: str = Field(min_length=1, description="Column with the prompt as one text.")
    messages_column: str = Field(min_length=1, description="Column with role/content turns; used where it is there.")
    category_column: str = Field(min_length=1, description="Column with a category, if any.")
    last_answer: LastAnswer = Field(
        description="A dialogue that ends with the assistant's turn: refuse it, or leave_out that turn and take what "
        "is before it as the prompt.",
    )
    sft_share: float = Field(gt=0, lt=1, description="Share of the prompts for supervised learning.")
    preference_share: float = Field(gt=0, lt=1, description="Share for preference pairs; the rest is for evaluation.")
    longest_prompt: int = Field(
        ge=1, description="A prompt with more tokens than this, or than the policy's context, is rejected."
    )

    @model_validator(mode="after")
    def _leave_some_for_evaluation(self) -> "PromptsSettings":
        if self.sft_share + self.preference_share >= 1:
            raise ValueError("sft_share + preference_share must be below 1: evaluation gets the rest")
        return self


class HumanPreferencesSettings(PreferenceFilesSettings):
    """Where human-labelled pairs come from."""

    category_column: str = Field(min_length=1, description="Column with a category, if any; or else `subset`.")
    votes_chosen_column: str = Field(min_length=1, description="Column with how many people chose it, if counted.")
    votes_rejected_column: str = Field(min_length=1, description="Column with how many chose the other, if counted.")
    score_chosen_column: str = Field(
        min_length=1, description="Column with the score of the chosen completion, if any: a tie is refused."
    )
    score_rejected_column: str = Field(min_length=1, description="Column with the score of the other one, if any.")
