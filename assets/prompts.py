"""The prompts x: red-team and ordinary, bundled or the user's own."""

import dagster as dg

from assets.common.failures import failure_of
from assets.common.launchpad import defaults_from
from assets.common.stage import new_rows, stage_rows
from assets.common.table_asset import table_asset
from cai_dagster.home import Home
from cai_dagster.inputs.decontamination import evaluation_sets
from cai_dagster.inputs.files import SourceFileError
from cai_dagster.inputs.prompts import collect_prompts, prompt_row
from cai_dagster.inputs.settings import DecontaminationSettings, PromptsSettings
from cai_dagster.lake.forgotten_prompts import forgotten_prompts
from cai_dagster.settings import active_settings
from resources.lake import LakeResource
from resources.language_models import LanguageModelResource


@defaults_from(active_settings().decontamination)
@defaults_from(active_settings().prompts)
class PromptsConfig(PromptsSettings, DecontaminationSettings, dg.Config):
    """Where prompts come from and how they are divided."""


@table_asset(code_version="1")
def prompts(
    context: dg.AssetExecutionContext, config: PromptsConfig, policy: LanguageModelResource, lake: LakeResource
) -> dg.MaterializeResult:
    """Every prompt once, with its sources and its split; rows that are no prompt are in rejected_rows."""
    chat_format = policy.chat_format()
    settings = config.model_copy(update={"longest_prompt": min(config.longest_prompt, policy.max_model_len)})
    try:
        collected, rejected = collect_prompts(
            settings,
            lambda messages: len(chat_format.prompt_ids(messages)),
            evaluation_sets(config),
            forgotten_prompts(Home.from_environment()),
        )
    except SourceFileError as error:
        raise failure_of(error) from None
    staged = new_rows(context, lake)
    staged.add(prompt_row(prompt, config) for prompt in collected)
    for row in rejected:
        staged.reject(row.source, row.reason, row.row)
    duplicates = sum(len(prompt.sources) - 1 for prompt in collected)
    return stage_rows(context, lake, staged, {"duplicates_merged": duplicates}, config.max_rejected_share)
