"""The card of an exported data set: what is in it, where it comes from, and the YAML that `datasets` reads.

It gets facts and returns text. Every text that a model or a person wrote is shown as text: it cannot become markup.
"""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cai_dagster.text import escaped

if TYPE_CHECKING:
    from datasets import Features

UNKNOWN_LICENCE = "unknown"
MARK = "Exported by cai_dagster"

Facts = Mapping[str, Any]


@dataclass(frozen=True)
class ExportedSplit:
    """One split: its file (relative to the card), its records and the file's size."""

    name: str
    file: str
    records: int
    bytes: int


@dataclass(frozen=True)
class CardFacts:
    """All that a card says.

    `principles` are rows of `constitution`, `materializations` of the table of that name, `figures` the rows of the
    tables that measure labels and reward models, by table.
    """

    table: str
    format: str
    describes: str
    constitution_version: str
    snapshot_id: int
    licence: str
    features: "Features"
    splits: Sequence[ExportedSplit]
    rejected: Mapping[str, int] = field(default_factory=dict[str, int])
    label_policies: Mapping[str, int] = field(default_factory=dict[str, int])
    principles: Sequence[Facts] = ()
    materializations: Sequence[Facts] = ()
    figures: Mapping[str, Sequence[Facts]] = field(default_factory=dict[str, Sequence[Facts]])


def dataset_card(facts: CardFacts) -> str:
    """README.md: YAML front matter, then the sections."""
    sections = [
        f"# {escaped(facts.table)} of constitution {escaped(facts.constitution_version)}",
        f"{MARK}. {escaped(facts.describes)}",
        _data(facts),
        _constitution(facts),
        _provenance(facts),
        *(_figures(table, rows) for table, rows in facts.figures.items()),
    ]
    return f"---\n{_front_matter(facts)}\n---\n\n" + "\n\n".join(sections) + "\n"


def _front_matter(facts: CardFacts) -> str:
    from datasets.info import DatasetInfo, DatasetInfosDict
    from datasets.splits import SplitDict, SplitInfo
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCardData

    splits = SplitDict()
    for split in facts.splits:
        splits.add(SplitInfo(split.name, num_bytes=split.bytes, num_examples=split.records))
    size = sum(split.bytes for split in facts.splits)
    info = DatasetInfo(features=facts.features, splits=splits, download_size=size, dataset_size=size)
    data_files = [{"split": split.name, "path": split.file} for split in facts.splits]
    card = DatasetCardData(
        license=facts.licence,
        pretty_name=f"{facts.table} of constitution {facts.constitution_version}",
        tags=["constitutional-ai", "synthetic"],
    )
    DatasetInfosDict({"default": info}).to_dataset_card_data(card)
    MetadataConfigs({"default": {"data_files": data_files}}).to_dataset_card_data(card)
    return card.to_yaml()


def _data(facts: CardFacts) -> str:
    rows = [{"split": split.name, "records": split.records, "file": split.file} for split in facts.splits]
    licence = "unknown: whoever exported it named none" if facts.licence == UNKNOWN_LICENCE else facts.licence
    lines = [
        "## Data",
        _table(rows),
        "A prompt is on one side only: its split is a hash of its id, the same in every version.",
        f"* Format: {escaped(facts.format)}",
        f"* Licence: {escaped(licence)}",
    ]
    lines += [f"* Label policy {escaped(name)}: {count:,} pairs" for name, count in facts.label_policies.items()]
    if facts.label_policies:
        lines.append("* `p_chosen` is P(chosen is better) under that policy: a soft label where the policy is soft")
    lines += [f"* Rejected, in rejected.jsonl: {count:,} as {escaped(code)}" for code, count in facts.rejected.items()]
    return "\n".join(lines[:1]) + "\n\n" + "\n\n".join(lines[1:3]) + "\n\n" + "\n".join(lines[3:])


def _constitution(facts: CardFacts) -> str:
    columns = ("slug", "principle_id", "weight", "tags", "critique_request", "revision_request", "comparison_request")
    rows = [{name: _cell(principle[name]) for name in columns} for principle in facts.principles]
    return f"## Constitution {escaped(facts.constitution_version)}\n\n{len(rows):,} principles\n\n{_table(rows)}"


def _provenance(facts: CardFacts) -> str:
    columns = ("table_name", "materialized_at", "rows", "rejected", "model_id", "data_version", "run_id")
    rows = [{name: _cell(account[name]) for name in columns} for account in facts.materializations]
    return (
        f"## Provenance\n\nAll rows are those of snapshot {facts.snapshot_id} of the lake. What each table was when "
        f"it was exported, and the model that was called for it:\n\n{_table(rows)}"
    )


def _figures(table: str, rows: Sequence[Facts]) -> str:
    left_out = {"constitution_version"}
    shown = [{name: _cell(value) for name, value in row.items() if name not in left_out} for row in rows]
    return f"## {escaped(table)}\n\n{_table(shown)}"


def _table(rows: Sequence[Facts]) -> str:
    if not rows:
        return "None."
    lines = [[escaped(name) for name in rows[0]], ["---"] * len(rows[0])]
    lines += [[escaped(value) for value in row.values()] for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(value: object) -> object:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.6g}"
    return ", ".join(str(part) for part in value) if isinstance(value, list) else value  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
