"""The prompts x: red-team and ordinary, bundled or the user's own."""

import dagster as dg

from assets.common.failures import failure_of
from assets.common.launchpad import defaults_from
from assets.common.stage import sources_metadata, stage_rows, work_of
from assets.common.table_asset import table_asset
from cai_dagster.inputs.files import SourceFileError
from cai_dagster.inputs.import_report import ImportReport
from cai_dagster.inputs.settings import DecontaminationSettings, PromptsSettings
from cai_dagster.models.chat_format import ChatFormatError
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
    from cai_dagster.plan.steps import fill_prompts

    work, imported = work_of(context, lake), ImportReport()
    try:
        duplicates = fill_prompts(work, config, config, policy, imported)
    except (SourceFileError, ChatFormatError) as error:
        raise failure_of(error) from None
    return stage_rows(
        context, lake, work.staged, {"duplicates_merged": duplicates, **sources_metadata(context, imported)}
    )
