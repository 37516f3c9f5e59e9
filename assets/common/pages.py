"""Where a page that an asset wrote can be opened from the UI."""

import os
from pathlib import Path

import dagster as dg

from cai_dagster.home import PAGES_ADDRESS, Home


def page_address(file: Path) -> dict[str, dg.UrlMetadataValue]:
    """The address of a page in CAI_HOME/reports, where `cai ui` serves them; nothing where it does not."""
    address, reports = os.environ.get(PAGES_ADDRESS), Home.from_environment().reports
    if not address or not file.is_relative_to(reports):
        return {}
    return {"page": dg.MetadataValue.url(f"{address}/{file.relative_to(reports).as_posix()}")}
