"""Direct principle feedback: Castricato et al. 2024. No judge: a revision is preferred to what it revises.

The evidence is the revision itself, made to agree with the principles. No call is made, so it costs nothing.
"""

import math

from cai_dagster.calls.requests import ChoiceLogprobs
from cai_dagster.constitution.constitution import Constitution
from cai_dagster.errors import RowError
from cai_dagster.inputs.pairs import Pair
from cai_dagster.judging.judgement import Judgement
from cai_dagster.judging.settings import JudgingMethod


class NotARevisionError(RowError):
    """completion_1 is no revision of completion_0, so nothing says which is better."""

    code = "not_a_revision"


def prefer_the_revision(constitution: Constitution, pair: Pair) -> list[Judgement]:
    """P(B) = 1 for completion_1, under the constitution as a whole. Raises NotARevisionError for other pairs."""
    if pair.revision_request_id is None:
        raise NotARevisionError(
            'the method "direct" needs pairs of first response and revision: set response_pairs.source to "revisions"'
        )
    label = ChoiceLogprobs((-math.inf, 0.0), pair.revision_request_id)
    return [Judgement(JudgingMethod.direct, constitution.principles, "01", label)]
