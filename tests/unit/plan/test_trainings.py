"""What a training is made of: which rows, in which order, and what names its checkpoint."""

from pathlib import Path

import pytest

from cai_dagster.home import Home
from cai_dagster.inputs.prompts import Prompt, prompt_row
from cai_dagster.inputs.settings import Split
from cai_dagster.lake.lake import Lake
from cai_dagster.models.messages import Message
from cai_dagster.models.weights import Weights
from cai_dagster.plan import work as work_module
from cai_dagster.plan.trainings import rlaif_ingredients, rlaif_prompts
from cai_dagster.plan.work import Work
from cai_dagster.settings import active_settings
from cai_dagster.training.policy_optimization import RewardReading
from tests.lake_rows import commit

TEXTS = [f"question {number}" for number in range(20)]
READING = RewardReading(64, None)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return Lake(Home(tmp_path_factory.mktemp("lake")))


def work_on(lake: Lake, *texts: str) -> Work:
    """What RLAIF works with: these prompts of the split `preference`, and one of another."""
    settings = active_settings().prompts
    made = [prompt_row(Prompt((Message("user", text),), None, ["a:1"]), settings) for text in (*texts, "another")]
    rows = [{**row, "split": Split.preference} for row in made[:-1]]
    commit(lake, "prompts", [*rows, {**made[-1], "split": Split.sft}])
    return Work(Home(Path()), lake, "v1", {"prompts": lake.snapshot("prompts")}, lake.stage("rlaif_model", "v1"))


def key_of(work: Work, judge_key: str = "judge") -> str:
    base = Weights("scripted", Path(), "0" * 64)
    return rlaif_ingredients(work, base, active_settings().rlaif_model, judge_key, READING).key


def test_rlaif_answers_the_prompts_of_its_split_in_the_order_of_their_ids(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = work_on(lake, *TEXTS)
    found = list(rlaif_prompts(made))
    assert {prompt[0].content for prompt in found} == set(TEXTS)
    assert [Prompt(prompt, None).id for prompt in found] == sorted(Prompt(prompt, None).id for prompt in found)
    monkeypatch.setattr(work_module, "ROWS_AT_ONCE", 3)
    assert list(rlaif_prompts(made)) == found


def test_a_checkpoint_of_rlaif_is_another_with_other_prompts_or_another_judge_and_in_no_other_order(lake: Lake) -> None:
    key = key_of(work_on(lake, *TEXTS))
    assert key_of(work_on(lake, *reversed(TEXTS))) == key
    assert key_of(work_on(lake, *TEXTS[1:])) != key
    assert key_of(work_on(lake, *TEXTS), "another") != key
