"""What a policy is optimized on with the labels of a constitution: pairs for DPO, prompts and rewards for RLAIF.

Direct preference optimization (Rafailov et al. 2023, equation 7) with the margin

    m = β · [log π(y_c|x)/π_ref(y_c|x) − log π(y_r|x)/π_ref(y_r|x)]

and one of three losses for a pair:

* sigmoid: −log σ(m);
* conservative: −p · log σ(m) − (1 − p) · log σ(−m), with p the pair's own P(chosen): label smoothing of 1 − p
  (Mitchell 2023; the same cross entropy as the reward model's);
* robust: [−(1 − ε) · log σ(m) + ε · log σ(−m)] / (1 − 2ε), unbiased where each label is flipped with probability ε
  (Chowdhury et al. 2024, equation 12).

Reinforcement learning from AI feedback (Bai et al. 2022, section 4.2) maximises r(x, y) − β · KL(π ‖ π_ref), here by
REINFORCE with the mean reward of a prompt's other completions as baseline (RLOO: Ahmadian et al. 2024, section 3.2).
It knows no trainer and no table store.
"""

import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cai_dagster.constitution.constitution import Constitution
from cai_dagster.hashing import content_hash
from cai_dagster.models.chat_format import ChatFormat
from cai_dagster.models.messages import Message, Messages, messages_to_json, to_messages
from cai_dagster.training.reward_modelling import conditioned

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class CompletionPair:
    """A preference pair as tokens: what both completions answer, the completions, and P(chosen)."""

    prompt_ids: Sequence[int]
    chosen_ids: Sequence[int]
    rejected_ids: Sequence[int]
    p_chosen: float


def completion_pairs(
    pairs: Iterable[Mapping[str, Any]], chat_format: ChatFormat, max_length: int
) -> Iterator[CompletionPair]:
    """Rows of `preference_pairs` cut to `max_length` tokens, without those that teach nothing once they are cut.

    Those are pairs that have become identical (their margin is 0 whatever the policy), and pairs of which a completion
    is cut away whole.
    """
    for row in pairs:
        prompt, chosen, rejected = (to_messages(row[column]) for column in ("prompt", "chosen", "rejected"))
        start = chat_format.completion_start((*prompt, *chosen))
        chosen_ids, rejected_ids = (
            chat_format.dialogue_ids((*prompt, *completion))[:max_length] for completion in (chosen, rejected)
        )
        pair = CompletionPair(chosen_ids[:start], chosen_ids[start:], rejected_ids[start:], row["p_chosen"])
        if pair.chosen_ids and pair.rejected_ids and pair.chosen_ids != pair.rejected_ids:
            yield pair


@dataclass(frozen=True)
class TrainingPrompt:
    """A prompt to be answered in training: its tokens up to where the answer begins, and its messages as JSON."""

    prompt: Sequence[int]
    messages: str


def training_prompts(
    prompts: Iterable[Messages], chat_format: ChatFormat, max_length: int, max_tokens: int
) -> Iterator[TrainingPrompt]:
    """The `prompts` in their order, without those that leave no room for `max_tokens` in `max_length`."""
    for messages in prompts:
        prompt_ids = chat_format.prompt_ids(messages)
        if len(prompt_ids) + max_tokens <= max_length:
            yield TrainingPrompt(prompt_ids, messages_to_json(messages))


@dataclass(frozen=True)
class RewardReading:
    """How a reward model trained in this graph reads an answer: as it read the pairs of its training.

    `principles` is None for a model that reads no principle. For one that does, each prompt draws one, the same for all
    answers to it, so that their rewards can be compared.
    """

    max_length: int
    principles: Constitution | None

    def prompt(self, messages: Messages) -> Messages:
        """What comes before the answer."""
        if self.principles is None:
            return messages
        prompt_id = content_hash([(turn.role, turn.content) for turn in messages])
        return conditioned(messages, self.principles.draw(prompt_id, "reward", 0)[0].comparison_request)


def reward_reading(checkpoint: Mapping[str, Any], constitution: "pl.DataFrame") -> RewardReading:
    """How the reward model of a row of `reward_model` reads; `constitution` has the principles that are drawn."""
    settings = json.loads(checkpoint["record"])["settings"]
    principles = Constitution.from_rows(constitution.to_dicts()) if settings.get("principle_conditioned") else None
    return RewardReading(int(settings["max_length"]), principles)


def scored_dialogues(
    prompts: Sequence[Messages], completions: Sequence[str], chat_format: ChatFormat, reading: RewardReading
) -> Iterator[list[int]]:
    """What a reward model reads of each completion: the same tokens as of a preference pair in its training."""
    for prompt, completion in zip(prompts, completions, strict=True):
        dialogue = (*reading.prompt(prompt), Message("assistant", completion))
        yield chat_format.dialogue_ids(dialogue)[: reading.max_length]


class AnswerScorer:
    """The reward model of a row of `reward_model`, which scores answers part by part.

    The parts have `total` rows together.
    """

    def __init__(
        self, checkpoint: Mapping[str, Any], constitution: "pl.DataFrame", total: int, report: Callable[[str], None]
    ) -> None:
        """Load the model; `report` is told how many answers were scored."""
        from cai_dagster.training.scoring import Scorer

        folder = Path(checkpoint["path"])
        self._scorer, self._chat_format = Scorer(folder), ChatFormat(folder)
        self._reading = reward_reading(checkpoint, constitution)
        self._total, self._report = total, report
        self._scored = 0

    def scored(self, answers: "pl.DataFrame") -> "pl.DataFrame":
        """The answers with the `reward` of each one's `completion` to its `messages`."""
        import polars as pl

        from cai_dagster.training.scoring import SCORE_BATCH

        asked = [to_messages(turns) for turns in answers["messages"]]
        dialogues = scored_dialogues(asked, answers["completion"].to_list(), self._chat_format, self._reading)
        # As arrays: a list of numbers takes eight times as much.
        rows = [array("i", ids) for ids in dialogues]
        rewards = self._scorer.score(rows, SCORE_BATCH, self._report, self._scored, self._total)
        self._scored += answers.height
        return answers.with_columns(pl.Series("reward", rewards, dtype=pl.Float64))
