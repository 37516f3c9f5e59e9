"""Which version another is compared with: the one that it was made from."""

from pathlib import Path

import pytest

from cai_dagster.constitution.bases import base_of, bases_of
from cai_dagster.constitution.constitution import load_constitution
from cai_dagster.constitution.versions import ConstitutionError

PRINCIPLE = """
  - slug: {slug}
    critique_request: Name what is {slug}.
    revision_request: Change it.
    comparison_request: Which one is less {slug}?
"""


def write(folder: Path, version: str, slugs: str, based_on: str | None = None) -> Path:
    """A constitution with a principle for each word."""
    first = f"based_on: {based_on}\n" if based_on else ""
    file = folder / f"{version}.yaml"
    file.write_text(f"{first}principles:{''.join(PRINCIPLE.format(slug=slug) for slug in slugs.split())}")
    return file


def test_the_base_is_the_version_that_it_was_copied_from_by_content(tmp_path: Path) -> None:
    write(tmp_path, "v1", "harm lies")
    write(tmp_path, "v2", "poems rhymes")
    write(tmp_path, "v3", "harm lies bias")
    assert [base_of(tmp_path, version) for version in ("v1", "v2", "v3")] == [None, "v1", "v1"]
    assert bases_of(tmp_path, "v3") == ["v1"]


def test_of_equal_bases_the_nearest_counts_and_so_it_does_where_nothing_is_shared(tmp_path: Path) -> None:
    write(tmp_path, "v2", "harm")
    write(tmp_path, "v10", "harm lies")
    write(tmp_path, "v11", "harm bias")
    write(tmp_path, "v12", "poems")
    assert base_of(tmp_path, "v11") == "v10"
    assert base_of(tmp_path, "v12") == "v11"
    assert bases_of(tmp_path, "v12") == ["v11", "v10", "v2"]


def test_what_a_file_names_goes_before_content_and_order(tmp_path: Path) -> None:
    write(tmp_path, "mine", "harm lies", based_on="v1")
    write(tmp_path, "v1", "harm lies")
    write(tmp_path, "v2", "harm lies", based_on="v1")
    assert base_of(tmp_path, "mine") == "v1"
    assert base_of(tmp_path, "v1") is None  # mine comes before it by name, and was made from it
    assert base_of(tmp_path, "v2") == "v1"


def test_versions_that_are_based_on_each_other_end(tmp_path: Path) -> None:
    write(tmp_path, "v1", "harm")
    write(tmp_path, "v2", "harm", based_on="v1")
    write(tmp_path, "v1", "harm", based_on="v2")
    assert bases_of(tmp_path, "v1") == ["v2"]
    assert bases_of(tmp_path, "v2") == ["v1"]


def test_a_version_whose_file_has_a_mistake_or_is_gone_has_the_one_before_it(tmp_path: Path) -> None:
    write(tmp_path, "v1", "harm")
    write(tmp_path, "v2", "lies")
    (tmp_path / "v3.yaml").write_text("principles: []")
    assert base_of(tmp_path, "v3") == "v2"
    assert base_of(tmp_path, "v4") == "v2"


def test_a_base_that_there_is_not_is_named_with_those_there_are(tmp_path: Path) -> None:
    write(tmp_path, "v1", "harm")
    file = write(tmp_path, "v2", "harm", based_on="v11")
    with pytest.raises(ConstitutionError, match=r"v2.yaml:1: based_on: 'v11' is no other version; there are v1"):
        load_constitution(file)
    with pytest.raises(ConstitutionError, match="'v2' is no other version"):
        load_constitution(write(tmp_path, "v2", "harm", based_on="v2"))
