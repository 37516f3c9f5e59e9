"""deploy/local.sh: a backfill through the daemon on PostgreSQL, by two hosts that share a store. Each version once.

`CAI_TEST_VERSIONS=50` for the backfill of an evening.
"""

import json
import os
import signal
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cai_dagster.home import Home
from cai_dagster.project import PROJECT
from tests.faults import read_calls, write_questions
from tests.postgresql import is_installed

VERSIONS = [f"v{number}" for number in range(1, 1 + int(os.environ.get("CAI_TEST_VERSIONS", "2")))]
HOSTS = ("host1", "host2")
QUESTIONS = 40
BACKFILL = """
mutation ($location: String!, $versions: [String!]!) {
  launchPartitionBackfill(backfillParams: {
    selector: {
      partitionSetName: "constitutional_ai_partition_set",
      repositorySelector: {repositoryName: "__repository__", repositoryLocationName: $location}
    },
    partitionNames: $versions
  }) { __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } }
}
"""
RUNS = "{ runsOrError { ... on Runs { results { runId status tags { key value } } } } }"
EVENTS = """
query ($run: ID!) {
  logsForRun(runId: $run) { ... on EventConnection { events {
    ... on ExecutionStepFailureEvent { stepKey error { message causes { message } } }
    ... on RunFailureEvent { message }
  } } }
}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose versions differ in one principle each."""
    folder = tmp_path / "project"
    (folder / "constitutions").mkdir(parents=True)
    text = (PROJECT / "constitutions" / "v1.yaml").read_text()
    for version in VERSIONS:
        edited = text.replace("harmful", f"harmful (in the words of {version})", 1)
        (folder / "constitutions" / f"{version}.yaml").write_text(edited)
    questions = write_questions(tmp_path / "questions.jsonl", QUESTIONS)
    (folder / "prompts").mkdir()
    (folder / "settings.toml").write_text(f'[demo.prompts]\nsources = ["{questions}"]\n')
    return folder


@pytest.fixture
def deployed(project: Path, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of the webserver, and the folder of the deployment."""
    if not is_installed():
        pytest.skip("needs Debian's postgresql and requirements/postgres.txt")
    folder = Path(f"/tmp/cai-deployment-{os.getpid()}")  # PostgreSQL's own user has to reach it
    changes = {"CAI_PROJECT": str(project), "CAI_PROFILE": "demo", "LOCATION": "tests.scripted_location"}
    script = subprocess.Popen(
        ["bash", str(PROJECT / "deploy" / "local.sh"), str(folder)],
        env={**os.environ, **changes},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert script.stdout is not None
    try:
        yield next(line.strip() for line in script.stdout if line.startswith("http")), folder
    finally:
        os.killpg(script.pid, signal.SIGTERM)
        script.wait(60)
        subprocess.run(["rm", "-rf", str(folder)], check=True)


def ask(url: str, query: str, **variables: Any) -> Any:
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(f"{url}/graphql", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["data"]


@pytest.mark.timeout(3600)
def test_a_backfill_by_two_hosts_makes_each_version_once(deployed: tuple[str, Path]) -> None:
    url, folder = deployed
    for place, host in enumerate(HOSTS):
        launched = ask(url, BACKFILL, location=host, versions=VERSIONS[place::2])
        assert launched["launchPartitionBackfill"]["__typename"] == "LaunchBackfillSuccess", launched
    deadline = time.monotonic() + 60 + 60 * len(VERSIONS)
    runs: list[dict[str, Any]] = []
    while time.monotonic() < deadline:
        runs = ask(url, RUNS)["runsOrError"]["results"]
        if len(runs) >= len(VERSIONS) and {run["status"] for run in runs} <= {"SUCCESS", "FAILURE", "CANCELED"}:
            break
        time.sleep(2)
    failed = [run["runId"] for run in runs if run["status"] != "SUCCESS"]
    assert not failed, [event for run in failed for event in ask(url, EVENTS, run=run)["logsForRun"]["events"] if event]
    assert len(runs) == len(VERSIONS)
    partitions = Counter(tag["value"] for run in runs for tag in run["tags"] if tag["key"] == "dagster/partition")
    assert partitions == dict.fromkeys(VERSIONS, 1)
    answered = Counter(call for host in HOSTS for what, call in read_calls(Home(folder / host)) if what == "answered")
    assert max(answered.values()) == 1
    assert all((folder / host / "calls.log").stat().st_size for host in HOSTS)
