"""A stage that another process makes again is the stage it was."""

import asyncio
from typing import Any

import pytest

from cai_dagster.constitution.constitution import Constitution, Principle
from cai_dagster.plan.stages import (
    STAGES,
    Stage,
    initial_responses_stage,
    policy_responses_stage,
    remade,
    version_judgements_stage,
)
from cai_dagster.processes import encoded
from cai_dagster.settings import active_settings
from tests.scripted import ScriptedEngine, ScriptedModel

CONSTITUTION = Constitution("v1", (Principle("kind", "Criticize", "Revise", "Which is kinder?", 2.0, ("tone",)),))
SETTINGS = active_settings()
OTHERS = {
    "policy_responses": policy_responses_stage("sl_cai_model", SETTINGS.policy_responses),
    "version_judgements": version_judgements_stage(
        [CONSTITUTION, CONSTITUTION], SETTINGS.judgements, SETTINGS.constitution_diff
    ),
}
ROW = {"prompt_id": "p", "messages": [{"role": "user", "content": "Why?"}]}


@pytest.mark.parametrize("table", [*STAGES, *OTHERS])
def test_a_stage_is_made_again_from_what_was_handed_over(table: str) -> None:
    stage = OTHERS[table] if table in OTHERS else STAGES[table].make(SETTINGS, CONSTITUTION)
    again = remade(stage.maker, encoded(stage.arguments))
    assert again.arguments == stage.arguments
    assert (again.table, again.rows, again.maker) == (table, stage.rows, stage.maker)


def test_its_recipe_asks_what_the_settings_say() -> None:
    changed = SETTINGS.initial_responses.model_copy(update={"samples": 3, "system_prompt": "Be brief."})
    stage = initial_responses_stage(changed)

    def made_by(stage: Stage) -> list[Any]:
        return [*asyncio.run(stage.recipe(ScriptedModel(ScriptedEngine()), ROW))]

    rows = made_by(remade(stage.maker, encoded(stage.arguments)))
    assert rows == made_by(stage)
    assert len(rows) == 3
    assert rows != made_by(initial_responses_stage(SETTINGS.initial_responses))
