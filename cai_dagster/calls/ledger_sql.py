"""SQL that all who look into the ledger share. It imports no SQLAlchemy, which takes longer than a look-up."""


def each_of_ids(postgresql: bool) -> str:
    """SQL for the ids of the JSON array `:ids`, as a column `id`: one parameter keeps a statement the same."""
    if postgresql:
        return "json_array_elements_text(cast(:ids AS json)) AS each(id)"
    return "(SELECT value AS id FROM json_each(:ids))"
