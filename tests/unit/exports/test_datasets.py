import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from cai_dagster.constitution.constitution import Constitution, Principle
from cai_dagster.exports.datasets import export_table
from cai_dagster.exports.formats import ExportError, ExportFormat, FileFormat, UnwritableRowError, layout_of
from cai_dagster.home import Home
from cai_dagster.lake.lake import Lake
from cai_dagster.lake.snapshots import Account
from cai_dagster.settings import active_settings
from tests.imported_rows import collect_human_preferences, collect_prompts
from tests.unit.lake.test_lake import HOSTILE

TEXTS = [
    *HOSTILE.values(),
    "# heading\n| a | b |\n```",
    "2020-01-01",
    "2020-01-01T00:00:00Z",
    "1e5",
    '{"a": 1}',
    "\x01\x1f",
]
ALL_FORMATS = [
    *(("sft_dataset", one) for one in (ExportFormat.trl, ExportFormat.messages, ExportFormat.nemo)),
    *(("preference_pairs", one) for one in ExportFormat if one != ExportFormat.hh),
]
HOSTILE_PRINCIPLE = "<script>alert(1)</script> | [x](javascript:y) **b** `c` \u202e\n---\n# H"


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def example(number: int, text: str) -> dict[str, Any]:
    messages = [turn("system", text), turn("user", text), turn("assistant", text)]
    return {"prompt_id": f"{number:x}", "sample": 0, "round": 1, "messages": messages}


def pair(number: int, text: str) -> dict[str, Any]:
    return {
        "pair_id": f"{number:x}",
        "prompt_id": f"{number:x}",
        "prompt": [turn("user", "before"), turn("assistant", text), turn("user", text)],
        "chosen": [turn("assistant", text)],
        "rejected": [turn("assistant", f"not {text}")],
        "p_chosen": 0.5 + (number + 1) / 1000 / 3,
        "label_policy": "soft",
        "source": "revisions",
        "split": ("preference", "evaluation")[number % 2],
    }


def commit(lake: Lake, table: str, rows: list[dict[str, Any]], version: str = "v1") -> int:
    staged = lake.stage(table, version)
    staged.add(rows)
    staged.close()
    assert not staged.rejected_count
    return lake.commit(staged, Account("run", f"{table} {len(rows)}", model_id="judge|<b>"))


def commit_version(lake: Lake, version: str, pairs: list[dict[str, Any]]) -> None:
    principles = (Principle("kind", HOSTILE_PRINCIPLE, "Be kind.", "Which is kinder?", tags=("a|b",)),)
    commit(lake, "constitution", Constitution(version, principles).to_rows(), version)
    commit(lake, "preference_pairs", pairs, version)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return filled(Lake(Home(tmp_path_factory.mktemp("lake"))))


def filled(lake: Lake) -> Lake:
    """With one version: a constitution, and every hostile text in a supervised example and in a pair."""
    commit(lake, "sft_dataset", [example(number, text) for number, text in enumerate(TEXTS)])
    commit_version(lake, "v1", [pair(number, text) for number, text in enumerate(TEXTS)])
    return lake


def loaded(folder: Path, cache: Path) -> dict[str, list[dict[str, Any]]]:
    """All splits, as `datasets.load_dataset` reads them."""
    import datasets

    splits: Any = datasets.load_dataset(str(folder), cache_dir=str(cache))
    return {name: list(split) for name, split in splits.items()}


def expected(lake: Lake, table: str, export_format: ExportFormat) -> dict[str, list[Mapping[str, Any]]]:
    records: dict[str, list[Mapping[str, Any]]] = {}
    for row in lake.snapshot(table, "v1").frame().iter_rows(named=True):
        split = row.get("split", "sft")
        name = "test" if split == "evaluation" else "train"
        records.setdefault(name, []).extend(layout_of(table, export_format).records({**row, "split": split}))
    return records


@pytest.mark.parametrize("file_format", list(FileFormat))
@pytest.mark.parametrize(("table", "export_format"), ALL_FORMATS)
def test_an_export_is_read_back_losslessly(
    lake: Lake, tmp_path: Path, table: str, export_format: ExportFormat, file_format: FileFormat
) -> None:
    made = export_table(lake, table, export_format, "v1", tmp_path / "out", file_format)
    read = loaded(tmp_path / "out", tmp_path / "cache")
    assert read == expected(lake, table, export_format)
    assert made.records == {name: len(rows) for name, rows in read.items()}
    assert not made.rejected


def test_dates_stay_texts(lake: Lake, tmp_path: Path) -> None:
    commit_version(lake, "2026-01-31", [pair(number, "2020-01-01") for number in range(2)])
    export_table(lake, "preference_pairs", ExportFormat.ultrafeedback, "2026-01-31", tmp_path / "out")
    (row,) = loaded(tmp_path / "out", tmp_path / "cache")["train"]
    assert (row["prompt"], row["constitution_version"]) == ("2020-01-01", "2026-01-31")


def test_json_lines_that_would_be_read_as_moments_are_refused(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cai_dagster.exports.datasets._READERS_CHUNK", 1_000)  # of which each row has more
    dates = [pair(0, "2020-01-01"), pair(2, "2020-01-01T00:00:00")]
    commit_version(lake, "dated", [*dates, *(pair(number, "x" * 1_000) for number in (4, 6))])
    with pytest.raises(ExportError, match="every text of the column prompt is a date such as '2020-01-01"):
        export_table(lake, "preference_pairs", ExportFormat.ultrafeedback, "dated", tmp_path / "out", FileFormat.jsonl)
    assert not list(tmp_path.glob("*out*"))
    monkeypatch.undo()
    export_table(lake, "preference_pairs", ExportFormat.ultrafeedback, "dated", tmp_path / "out", FileFormat.jsonl)
    rows = loaded(tmp_path / "out", tmp_path / "cache")["train"]
    assert [row["prompt"] for row in rows[:2]] == ["2020-01-01", "2020-01-01T00:00:00"]


def test_explicit_pairs_are_the_tables_rows(lake: Lake, tmp_path: Path) -> None:
    export_table(lake, "preference_pairs", ExportFormat.trl, "v1", tmp_path / "out")
    read = loaded(tmp_path / "out", tmp_path / "cache")
    rows = [row for records in read.values() for row in records]
    table = lake.snapshot("preference_pairs", "v1").frame()
    assert pl.DataFrame(rows).select(table.columns).sort("pair_id").equals(table)


def test_what_each_format_makes_of_a_pair() -> None:
    row = {**pair(0, "text"), "p_chosen": 0.75, "constitution_version": "v1"}
    dialogue = [*row["prompt"], turn("assistant", "text")]

    def made(export_format: ExportFormat) -> list[dict[str, Any]]:
        return layout_of("preference_pairs", export_format).records(row)

    (implicit,) = made(ExportFormat.messages)
    assert (implicit["chosen"], implicit["rejected"][:-1]) == (dialogue, row["prompt"])
    (binarized,) = made(ExportFormat.ultrafeedback)
    assert (binarized["prompt"], binarized["messages"]) == ("text", dialogue)
    assert (binarized["score_chosen"], binarized["score_rejected"]) == (7.75, 3.25)
    (ranked,) = made(ExportFormat.nemo)
    assert ranked["context"] == row["prompt"]
    assert [(one["rank"], one["completion"]) for one in ranked["completions"]] == [
        (0, row["chosen"]),
        (1, row["rejected"]),
    ]
    assert [(one["label"], one["completion"]) for one in made(ExportFormat.kto)] == [
        (True, row["chosen"]),
        (False, row["rejected"]),
    ]
    assert {one["p_chosen"] for export_format in ExportFormat for one in made(export_format)} == {0.75}


def turns_of(text: str) -> list[tuple[str, str]]:
    """The turns of a transcript as any reader of hh-rlhf finds them."""
    import re

    parts = re.split(r"\n\n(Human|Assistant): ", text)
    assert parts[0] == ""
    return list(zip(parts[1::2], parts[2::2], strict=True))


def test_transcripts_hold_every_text_but_those_that_open_a_turn(lake: Lake, tmp_path: Path) -> None:
    forged = pair(99, "Fine.\n\nHuman: And now?")
    commit_version(lake, "forged", [*(pair(number, text) for number, text in enumerate(TEXTS)), forged])
    made = export_table(lake, "preference_pairs", ExportFormat.hh, "forged", tmp_path / "out", FileFormat.jsonl)
    assert made.rejected == {"unwritable": 1}
    (line,) = (tmp_path / "out" / "rejected.jsonl").read_text(encoding="utf-8").splitlines()
    rejected = json.loads(line)
    assert rejected["row_id"] == "forged/63"
    assert rejected["reason"] == (
        "unwritable: a turn of the assistant has Human: after an empty line, which no reader of hh-rlhf reads back"
    )
    assert rejected["row"]["chosen"] == forged["chosen"]
    assert "Rejected, in rejected.jsonl: 1 as unwritable" in (tmp_path / "out" / "README.md").read_text(
        encoding="utf-8"
    )
    read = [row for rows in loaded(tmp_path / "out", tmp_path / "cache").values() for row in rows]
    assert len(read) == len(TEXTS)
    for row in read:
        text = TEXTS[int(row["pair_id"], 16)]
        before = [("Human", "before"), ("Assistant", text), ("Human", text)]
        assert turns_of(row["chosen"]) == [*before, ("Assistant", text)]
        assert turns_of(row["rejected"]) == [*before, ("Assistant", f"not {text}")]


def test_an_export_is_a_source_of_prompts_and_pairs(lake: Lake, tmp_path: Path) -> None:
    export_table(lake, "preference_pairs", ExportFormat.trl, "v1", tmp_path / "out")
    settings = active_settings()
    source = {"sources": [str(tmp_path / "out")]}
    pairs, refused = collect_human_preferences(settings.human_preferences.model_copy(update=source), settings.prompts)
    prompts, _ = collect_prompts(settings.prompts.model_copy(update=source), lambda _: 1)
    assert all("null byte" in one.reason for one in refused)
    assert {pair["source"].split(":")[0] for pair in pairs} == {"train.parquet", "test.parquet"}
    assert len(pairs) == len(prompts) == sum("\0" not in text for text in TEXTS)


def test_a_transcript_has_no_system_turn() -> None:
    row = {**pair(0, "x"), "prompt": [turn("system", "x"), turn("user", "y")], "constitution_version": "v1"}
    with pytest.raises(UnwritableRowError, match="hh-rlhf has no system turn"):
        layout_of("preference_pairs", ExportFormat.hh).records(row)


def test_the_card_names_what_the_rows_come_from(lake: Lake, tmp_path: Path) -> None:
    made = export_table(lake, "preference_pairs", ExportFormat.trl, "v1", tmp_path / "out", licence="cc-by-4.0")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "license: cc-by-4.0" in card
    assert f"snapshot {made.snapshot_id} of the lake" in card
    assert f"Label policy soft: {len(TEXTS)} pairs" in card
    assert "| constitution |" in card


def test_an_unknown_licence_is_said_to_be_unknown(lake: Lake, tmp_path: Path) -> None:
    export_table(lake, "sft_dataset", ExportFormat.trl, "v1", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "license: unknown" in card
    assert "Licence: unknown" in card


def test_no_text_in_the_card_is_markup(lake: Lake, tmp_path: Path) -> None:
    from markdown_it import MarkdownIt

    export_table(lake, "preference_pairs", ExportFormat.trl, "v1", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8").split("\n---\n", 1)[1]
    tokens = MarkdownIt("commonmark").enable("table").parse(card)
    kinds = {token.type for token in tokens} | {child.type for token in tokens for child in token.children or []}
    assert kinds.isdisjoint({"html_block", "html_inline", "link_open", "strong_open", "em_open", "hr", "fence"})
    cells = ["".join(child.content for child in token.children or []) for token in tokens if token.type == "inline"]
    shown = "<script>alert(1)</script> | [x](javascript:y) **b** `c` \\u202e --- # H"
    assert shown in cells
    assert "judge|<b>" in cells


def test_an_older_snapshot_is_exported_as_it_was(lake: Lake, tmp_path: Path) -> None:
    commit_version(lake, "older", [pair(0, "old"), pair(1, "old")])
    before = lake.snapshot("preference_pairs", "older").snapshot_id
    commit_version(lake, "older", [pair(0, "new")])
    old = export_table(lake, "preference_pairs", ExportFormat.trl, "older", tmp_path / "old", snapshot_id=before)
    new = export_table(lake, "preference_pairs", ExportFormat.trl, "older", tmp_path / "new")
    assert (sum(old.records.values()), sum(new.records.values())) == (2, 1)
    assert old.snapshot_id == before


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"table": "prompts"}, "prompts is not exported; --table takes sft_dataset, preference_pairs"),
        ({"export_format": ExportFormat.kto}, "cannot be written as kto; --format takes trl, messages, nemo"),
        ({"snapshot_id": 10_000}, "the lake has no snapshot 10000 of sft_dataset; the newest is"),
        ({"snapshot_id": 1}, "has no rows for constitution version 'v1' at snapshot 1"),
        ({"constitution_version": "v9"}, "sft_dataset has not been materialized for constitution version 'v9'"),
    ],
)
def test_what_cannot_be_exported_is_said(lake: Lake, tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    wanted = {"table": "sft_dataset", "export_format": ExportFormat.trl, "constitution_version": "v1", **changed}
    with pytest.raises(Exception, match=said):
        export_table(lake, folder=tmp_path / "out", **wanted)
    assert not list(tmp_path.glob("*out*"))


def test_a_table_of_which_no_row_can_be_written_leaves_no_folder(lake: Lake, tmp_path: Path) -> None:
    commit_version(lake, "unwritable", [pair(0, "x\n\nAssistant: y")])
    with pytest.raises(ExportError, match="no row of preference_pairs can be written as hh: 1 unwritable"):
        export_table(lake, "preference_pairs", ExportFormat.hh, "unwritable", tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_a_folder_is_replaced_only_when_told_and_only_if_it_is_an_export(lake: Lake, tmp_path: Path) -> None:
    def export(**more: Any) -> None:
        export_table(lake, "sft_dataset", ExportFormat.trl, "v1", tmp_path / "out", **more)

    export()
    with pytest.raises(ExportError, match="exists; name another --output, or replace it with --overwrite"):
        export()
    export(file_format=FileFormat.jsonl, overwrite=True)
    assert sorted(file.name for file in (tmp_path / "out").rglob("*")) == ["README.md", "data", "train.jsonl"]
    (tmp_path / "out" / "README.md").write_text("my own", encoding="utf-8")
    with pytest.raises(ExportError, match="was not made by an export, so it is not overwritten"):
        export(overwrite=True)
    assert (tmp_path / "out" / "README.md").read_text(encoding="utf-8") == "my own"
    assert not list(tmp_path.glob(".out*"))


def test_an_export_that_fails_leaves_what_was_there(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    export_table(lake, "sft_dataset", ExportFormat.trl, "v1", folder)
    before = {file: file.read_bytes() for file in folder.rglob("*.*")}

    def fail(_: object) -> str:
        assert {file: file.read_bytes() for file in folder.rglob("*.*")} == before
        raise KeyboardInterrupt

    monkeypatch.setattr("cai_dagster.exports.datasets.dataset_card", fail)
    with pytest.raises(KeyboardInterrupt):
        export_table(lake, "sft_dataset", ExportFormat.messages, "v1", folder, overwrite=True)
    assert {file: file.read_bytes() for file in folder.rglob("*.*")} == before
    assert not list(tmp_path.glob(".out*"))
