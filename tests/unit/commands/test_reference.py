"""The reference pages say what the models say, and leave nothing out."""

import ast
import re
from pathlib import Path

import pytest

from cai_dagster.checks.declarations import CHECKS
from cai_dagster.commands import reference
from cai_dagster.home import PAGES_ADDRESS, STORAGE
from cai_dagster.project import PROJECT
from cai_dagster.settings import SETTINGS_FILE, Settings, load_settings
from cai_dagster.tables.registry import TABLES
from cai_dagster.tables.table import Maker

PROGRAM = [
    *(PROJECT / "cai_dagster").rglob("*.py"),
    *(PROJECT / "assets").rglob("*.py"),
    *(PROJECT / "resources").rglob("*.py"),
]


def section_of(page: str, heading: str) -> str:
    """What stands below a heading."""
    return page.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]


def rows_below(page: str, heading: str) -> dict[str, list[str]]:
    """The cells of the table below a heading, by the name in its first column."""
    lines = [line for line in section_of(page, heading).splitlines() if line.startswith("| `")]
    return {row[0].strip("`"): row for row in (re.split(r" (?<!\\)\| ", line[2:-2]) for line in lines)}


def rows(page: str, name: str) -> dict[str, list[str]]:
    """Those of a section's or a table's own."""
    return rows_below(page, f"`{name}`")


def as_above(page: str, name: str) -> list[str]:
    """What a section or a table has of what is described above."""
    lines = section_of(page, f"`{name}`").splitlines()
    return [
        one for line in lines if line.startswith("As above: ") for one in re.findall(r"(?:^As above: |, )`(\w+)`", line)
    ]


def checks_of_the_page() -> dict[str, list[str]]:
    """The cells of the table of checks, by the check."""
    return rows_below(reference.monitoring_page(), "The checks")


@pytest.mark.parametrize("name", reference.pages())
def test_a_page_is_what_the_models_make_of_it(name: str) -> None:
    written = (reference.DOCS / name).read_text(encoding="utf-8")
    assert written == reference.pages()[name], (
        f"docs/{name} is stale: run `make docs` (python -m cai_dagster.commands.reference)"
    )


def test_every_setting_has_its_default_and_its_meaning() -> None:
    page = reference.configuration_page()
    default = load_settings(SETTINGS_FILE, "default")
    for section, field in Settings.model_fields.items():
        found = rows(page, section)
        if "are those of [" in page.split(f"## `{section}`\n", 1)[1].split("\n## ", 1)[0]:
            assert not found
            continue
        if section == "checks":  # they are on the page of the checks
            found = checks_of_the_page()
            assert list(found) == list(type(default.checks).model_fields)
            continue
        values = getattr(default, section)
        assert {*found, *as_above(page, section)} == set(type(values).model_fields), field
        assert set(as_above(page, section)) <= set(rows_below(page, "Settings of several sections"))
        assert all(row[-1] for row in found.values()), f"a setting of {section} has no description"


def test_a_profile_that_changes_a_setting_is_shown_beside_the_default() -> None:
    row = rows(reference.configuration_page(), "revision_rounds")["rounds"]
    assert row[1:4] == ["integer, ≥ 1, ≤ 16", "`4`", "`2`"]
    assert rows(reference.configuration_page(), "revision_rounds")["critique_max_tokens"][3] == "`32`"
    above = section_of(reference.configuration_page(), "`revision_rounds`")
    assert "As above: `temperature` `1.0` (demo: `0.6`), `top_p` `1.0` (demo: `0.9`), `seed` `0`.\n" in above


def test_choices_and_bounds_of_checks_are_written_out() -> None:
    page = reference.configuration_page()
    assert rows(page, "preference_pairs")["ensemble"][1] == "`mean` `dominant` `weights`"
    found = checks_of_the_page()
    assert found["length_ratio"][3:5] == ["at least 0.67, at most 1.5: ERROR", "at least 0.67, at most 1.5: WARN"]
    assert {f"`{check.table}`" for check in CHECKS if check.name == "rejected_share"} == set(
        found["rejected_share"][1].split(", ")
    )


def test_every_column_has_a_meaning() -> None:
    page = reference.tables_page()
    for name, table in TABLES.items():
        found = rows(page, name)
        inherits = "It has the columns of" in page.split(f"## `{name}`\n", 1)[1].split("\n## ", 1)[0]
        assert inherits or {*found, *as_above(page, name)} == set(table.schema)
        assert set(as_above(page, name)) <= set(rows_below(page, "Columns of several tables"))
        silent = [column for column, row in found.items() if not row[-1].strip()]
        assert not silent, f"{name}: say in its declaration what {silent} mean"


def test_a_column_is_described_as_it_is_checked() -> None:
    judgements = rows(reference.tables_page(), "judgements")
    assert judgements["order"][1:3] == ["`String`", "`01` `10`"]
    assert judgements["score_0"][1:3] == ["`Float64`", "may be null, ≥ 1, ≤ 10"]
    assert rows(reference.tables_page(), "revision_rounds")["critique"][2] == "not empty"


def test_every_environment_variable_that_the_program_names_is_described() -> None:
    program = [file for file in PROGRAM if file.name != "reference.py"]
    named = {name for file in program for name in environment_variables(file)}
    assert {"CAI_HOME", "HF_HUB_OFFLINE", "VLLM_CPU_KVCACHE_SPACE", "TQDM_DISABLE", "DAGSTER_HOME"} <= named
    # Read by the name that a setting or a table gives, so they stand in no line of code.
    assert set(reference.ENVIRONMENT) - named == {"CAI_API_KEY", PAGES_ADDRESS, *STORAGE.values()}
    assert named <= set(reference.ENVIRONMENT)


def environment_variables(file: Path) -> set[str]:
    """Every upper-case name that a file passes to or takes from os.environ, or puts into a process's environment."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        texts: list[ast.expr | None] = []
        if isinstance(node, ast.Call) and "os.environ" in ast.unparse(node.func):
            texts = [*node.args[:1]]
        elif isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
            texts = [node.slice]
        elif isinstance(node, ast.Dict):
            texts = [*node.keys]
        found |= {
            text.value
            for text in texts
            if isinstance(text, ast.Constant)
            and isinstance(text.value, str)
            and re.fullmatch(r"[A-Z]{2}[A-Z0-9_]+", text.value)
        }
    return found


def test_the_map_has_every_table_with_its_asset_and_every_folder_in_the_order_of_the_imports() -> None:
    page = reference.concepts_page()
    folders = page.split("<!-- folders:", 1)[1].split("<!-- end of folders -->", 1)[0]
    shown = re.findall(r"^\| `([\w/.]+)` \|", folders, re.MULTILINE)
    assert shown == [place for place, _ in reference.floors()]
    there = {f"cai_dagster/{folder.parent.name}/" for folder in (PROJECT / "cai_dagster").glob("*/__init__.py")}
    assert there | {"assets/", "resources/"} <= set(shown)
    tables = page.split("<!-- tables:", 1)[1].split("<!-- end of tables -->", 1)[0]
    with_asset = set(re.findall(r"^\| \[`(\w+)`\].*assets/\w+\.py\) \|$", tables, re.MULTILINE))
    assert with_asset == {name for name, table in TABLES.items() if table.maker != Maker.record}
