"""Where a row comes from and where it went: trace, row lineage, the page of a principle."""
