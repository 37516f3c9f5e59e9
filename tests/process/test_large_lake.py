"""The scripted home of the benchmarks is one that the commands of every day understand."""

import json

from typer.testing import CliRunner

from benchmarks.large_home import ids_to_trace
from benchmarks.large_lake import build, version_name
from cai_dagster.commands.cli import app
from cai_dagster.home import Home


def test_a_small_edition_of_the_large_home_can_be_looked_at(home: Home) -> None:
    size = build(home, versions=2, rows=400)
    newest = version_name(size.versions)
    told = json.loads(CliRunner().invoke(app, ["status", "--all", "--json"]).stdout)
    assert newest in json.dumps(told)
    for kind, one in ids_to_trace(home, newest).items():
        found = json.loads(CliRunner().invoke(app, ["trace", one, "--json"]).stdout)
        assert found["kind"] == kind
        assert found["forwards"]["rows"]
