"""Judging: which of two completions agrees better with a principle, as log probabilities of (A) and (B).

The front door to the judging methods; each is a module of this package, and `judgements.method` in the settings
chooses. It knows no label policy: it returns evidence.
"""

from cai_dagster.calls.requests import LanguageModel
from cai_dagster.constitution.constitution import Constitution
from cai_dagster.inputs.pairs import Order, Pair
from cai_dagster.judging.direct import prefer_the_revision
from cai_dagster.judging.judgement import STAGE, Judgement
from cai_dagster.judging.one_principle import judge_one_principle
from cai_dagster.judging.rationale import judge_after_a_rationale
from cai_dagster.judging.scoring import judge_by_scores
from cai_dagster.judging.settings import JudgementsSettings, JudgingMethod
from cai_dagster.judging.several_principles import judge_several_principles


async def judge(
    model: LanguageModel, constitution: Constitution, pair: Pair, settings: JudgementsSettings
) -> list[Judgement]:
    """The pair under each drawn principle (or under all in one prompt), in one order or in both.

    Raises RowError where the engine does not return a label: a missing judgement, never one half.
    """
    principles = constitution.draw(pair.pair_id, STAGE, 0, settings.principles_per_pair, settings.seed)
    orders: tuple[Order, ...] = ("01", "10") if settings.both_orders else ("01",)
    examples = constitution.comparisons if settings.few_shot else ()
    match settings.method:
        case JudgingMethod.one_principle:
            return await judge_one_principle(model, pair, principles, orders, examples)
        case JudgingMethod.several_principles:
            return await judge_several_principles(model, pair, principles, orders, examples)
        case JudgingMethod.rationale:
            longest = settings.rationale_max_tokens
            return await judge_after_a_rationale(model, pair, principles, orders, examples, longest)
        case JudgingMethod.scoring:
            return await judge_by_scores(model, pair, principles, examples)
        case JudgingMethod.direct:
            return prefer_the_revision(constitution, pair)
