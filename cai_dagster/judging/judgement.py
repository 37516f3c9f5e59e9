"""A judgement: what is judged, and the evidence that comes of it. It knows no prompt, no method and no policy."""

import math
from dataclasses import dataclass
from typing import Any

from cai_dagster.calls.requests import ChoiceLogprobs, Completion
from cai_dagster.constitution.constitution import Principle
from cai_dagster.hashing import ROW_ID_DIGITS, content_hash
from cai_dagster.inputs.pairs import Order
from cai_dagster.judging.settings import JudgingMethod

STAGE = "judgements"


@dataclass(frozen=True)
class Score:
    """log P of the scores 1, 2, … of one completion (at least one is possible), and the calls that gave them."""

    logprobs: tuple[float, ...]
    request_ids: tuple[str, ...]

    @property
    def log_mass(self) -> float:
        """Log of the probability that the model gives a score at all."""
        most = max(self.logprobs)
        return min(0.0, most + math.log(sum(math.exp(logprob - most) for logprob in self.logprobs)))

    @property
    def probabilities(self) -> tuple[float, ...]:
        """P of each score, given that it is one of them."""
        most = max(self.logprobs)
        weights = [math.exp(logprob - most) for logprob in self.logprobs]
        return tuple(weight / sum(weights) for weight in weights)

    @property
    def expected(self) -> float:
        """Σ i·P(i) (Lee et al. 2023, section 3)."""
        return sum(score * p for score, p in enumerate(self.probabilities, 1))


@dataclass(frozen=True)
class Judgement:
    """log P(A) and log P(B) of one pair under one principle (or several in one prompt) in one order."""

    method: JudgingMethod
    principles: tuple[Principle, ...]
    order: Order
    label: ChoiceLogprobs
    rationale: Completion | None = None
    scores: tuple[Score, Score] | None = None

    @property
    def principle_id(self) -> str:
        """The principle's id; of several the hash of theirs, in whichever order they were shown."""
        ids = sorted(principle.id for principle in self.principles)
        return ids[0] if len(ids) == 1 else content_hash(ids, ROW_ID_DIGITS)

    def to_row(self) -> dict[str, Any]:
        """The columns of `judgements` that one judgement decides."""
        written = self.rationale
        first, second = self.scores or (None, None)
        return {
            "principle_id": self.principle_id,
            "order": self.order,
            "logp_a": self.label.logprobs[0],
            "logp_b": self.label.logprobs[1],
            "rationale": written and written.text,
            "request_id": self.label.request_id,
            "method": self.method.value,
            "principle_ids": [principle.id for principle in self.principles],
            "principle_weight": sum(principle.weight for principle in self.principles),
            "rationale_finish_reason": written and written.finish_reason,
            "rationale_request_id": written and written.request_id,
            "score_logprobs_0": first and list(first.logprobs),
            "score_logprobs_1": second and list(second.logprobs),
            "score_0": first and first.expected,
            "score_1": second and second.expected,
            "score_request_ids": first and second and [*first.request_ids, *second.request_ids],
        }
