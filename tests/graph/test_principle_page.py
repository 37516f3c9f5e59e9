"""A principle's page says what the tables say of it, and shows hostile texts as text."""

import json
import math
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console
from typer.testing import CliRunner

from cai_dagster.commands.cli import app
from cai_dagster.commands.principle import print_principle, to_html
from cai_dagster.constitution.constitution import Constitution, Principle
from cai_dagster.explain.principle_page import NoSuchPrincipleError, PrinciplePage, principle_page
from cai_dagster.home import Home
from cai_dagster.lake.snapshots import Account
from resources.lake import open_lake
from tests.hostile import HOSTILE, LONG_LINE
from tests.lake_rows import judged_under
from tests.unit.pages.test_html import Elements


@pytest.fixture
def environment(explained: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAI_HOME", str(explained.root))


def most_drawn(home: Home) -> tuple[str, str]:
    """The slug and id of the principle that most rounds of v1 were revised under."""
    rounds = open_lake(home).snapshot("revision_rounds", "v1").frame()
    principle = rounds["principle_id"].mode().sort()[0]
    constitution = open_lake(home).snapshot("constitution", "v1").frame()
    return constitution.filter(pl.col("principle_id") == principle)["slug"][0], principle


def test_draws_are_counted_by_version_and_round(explained: Home, environment: None) -> None:
    slug, principle = most_drawn(explained)
    page = principle_page(explained, slug, None, examples=100)
    assert {draws.constitution_version for draws in page.draws} == {"v1", "v2"}
    rounds = open_lake(explained).snapshot("revision_rounds", "v1").frame()
    for draws in page.draws:
        if draws.constitution_version == "v1":
            mine = rounds.filter((pl.col("principle_id") == principle) & (pl.col("round") == draws.round))
            assert draws.drawn == mine.height
            assert draws.of == rounds.filter(pl.col("round") == draws.round).height
    told = [example for example in page.revisions if example.constitution_version == "v2"]
    assert told == list(page.revisions)  # examples are of one version: the last in which it was drawn
    only = principle_page(explained, slug, "v1", examples=1)
    assert {row.constitution_version for row in (*only.draws, *only.decisions, *only.revisions, *only.pairs)} == {"v1"}


def test_agreement_with_people_is_that_of_judge_calibration(explained: Home, environment: None) -> None:
    calibrated = open_lake(explained).snapshot("judge_calibration", "v1").frame()
    row = calibrated.filter(pl.col("slice") == "principle").row(0, named=True)
    (agreement,) = principle_page(explained, row["slice_value"], "v1", 0).agreements
    assert (agreement.pairs, agreement.agreement) == (row["pairs"], row["agreement"])


def test_a_principle_that_changes_the_label_of_the_others_has_flipped_it(home: Home) -> None:
    page = judged_page(
        home, {"p1": {"ours": 0.9, "other": 0.3}, "p2": {"ours": 0.6, "other": 0.2}, "p3": {"ours": 0.95}}
    )
    (decisions,) = page.decisions
    assert (decisions.pairs, decisions.judged, decisions.alone, decisions.flipped) == (3, 3, 1, 1)
    assert decisions.certainty == pytest.approx((0.4 + 0.1 + 0.45) / 3)
    assert list(decisions.histogram) == [0, 0, 0, 0, 0, 0, 1, 0, 0, 2]
    assert decisions.orders_agree == 1
    assert decisions.p_a == pytest.approx(0.5)


def test_orders_that_disagree_are_counted_and_averaged(home: Home) -> None:
    page = judged_page(home, {"p1": {"ours": (0.9, 0.3)}, "p2": {"ours": (0.9, 0.8)}})
    (decisions,) = page.decisions
    assert decisions.orders_agree == pytest.approx(0.5)
    assert decisions.certainty == pytest.approx((0.1 + 0.35) / 2)


def judged_page(home: Home, p_0: dict[str, dict[str, Any]]) -> PrinciplePage:
    """The page of `ours`, where pairs are judged so: P(completion_0) in both orders, or one for each order."""
    lake = open_lake(home)
    principles = {slug: Principle(slug, f"{slug} c", f"{slug} r", f"{slug} q") for slug in ("ours", "other")}
    staged = lake.stage("constitution", "v1")
    staged.add_frame(pl.DataFrame(Constitution("v1", tuple(principles.values())).to_rows(), infer_schema_length=None))
    staged.close()
    lake.commit(staged, Account("run", "data"))
    staged = lake.stage("judgements", "v1")
    for pair, labels in p_0.items():
        for slug, given in labels.items():
            for order, p in zip(("01", "10"), given if isinstance(given, tuple) else (given, given), strict=True):
                p_a = p if order == "01" else 1 - p
                row = {"logp_a": math.log(p_a), "logp_b": math.log(1 - p_a), "feedback_model": "m", "request_id": "aa"}
                row |= {"principle_id": principles[slug].id, **judged_under(principles[slug].id)}
                staged.add([{**row, "pair_id": pair.replace("p", "a"), "order": order}])
    staged.close()
    assert not staged.rejected_count
    lake.commit(staged, Account("run", "data"))
    return principle_page(home, "ours", None, 0)


def test_an_edited_text_is_shown_as_a_word_diff(home: Home) -> None:
    lake = open_lake(home)
    for version, word in (("v1", "kind"), ("v2", "fair")):
        rows = Constitution(version, (Principle("ours", f"be {word} to all", "r", "q"),)).to_rows()
        staged = lake.stage("constitution", version)
        staged.add_frame(pl.DataFrame(rows, infer_schema_length=None))
        staged.close()
        lake.commit(staged, Account("run", "data"))
    page = principle_page(home, "ours", None, 0)
    assert [list(edition.weights) for edition in page.editions] == [["v1"], ["v2"]]
    assert "be <del>kind </del><ins>fair </ins>to all" in to_html(page)
    console = Console(file=StringIO(), record=True, width=200)
    print_principle(page, console)
    assert "be [-kind -]{+fair +}to all" in console.export_text()
    with pytest.raises(NoSuchPrincipleError, match="not in constitution version 'v3'; it is in v1, v2"):
        principle_page(home, "ours", "v3", 0)
    with pytest.raises(NoSuchPrincipleError, match="There are ours"):
        principle_page(home, "theirs", None, 0)


@pytest.mark.parametrize("hostile", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_texts_are_text_on_the_page_and_in_the_terminal(
    explained: Home, environment: None, hostile: str
) -> None:
    slug, _ = most_drawn(explained)
    page = principle_page(explained, slug, "v1", 1)
    turns = [{"role": "user", "content": hostile}]
    revisions = [
        replace(row, messages=turns, critique=hostile, response=hostile, revision=f"{hostile} x", source=hostile)
        for row in page.revisions
    ]
    pairs = [replace(row, messages=turns, completion_0=hostile, completion_1=hostile) for row in page.pairs]
    editions = [replace(one, critique_request=hostile, comparison_request=hostile) for one in page.editions]
    owned = replace(page, revisions=revisions, pairs=pairs, editions=[*editions, *editions])
    harmless = Elements(to_html(page))
    elements = Elements(to_html(owned))
    assert elements.tags - {"ins", "del"} == harmless.tags - {"ins", "del"}
    assert elements.attributes == harmless.attributes
    console = Console(file=StringIO(), record=True, width=200)
    print_principle(owned, console)
    shown = console.export_text()
    assert not {character for character in shown if not character.isprintable() and character != "\n"}
    assert len(shown) < len(LONG_LINE) * 4 + 100_000


def test_the_command_writes_a_page_and_prints_json(explained: Home, environment: None, tmp_path: Path) -> None:
    slug, _ = most_drawn(explained)
    finished = CliRunner().invoke(app, ["principle", slug, "--json", "--html", str(tmp_path / "new" / "page.html")])
    told = json.loads(finished.stdout)
    assert told.keys() == {
        *("slug", "constitution_version", "editions", "draws", "decisions", "agreements", "revisions", "pairs")
    }
    assert slug in (tmp_path / "new" / "page.html").read_text()
    printed = CliRunner().invoke(app, ["principle", slug])
    assert printed.exit_code == 0
    assert "Drawn for revisions" in printed.stdout
