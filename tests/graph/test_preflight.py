"""What would stop a run is said before it begins: servers, templates, rows, disk, and whether it can run by itself."""

import json
import shutil
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from cai_dagster.home import Home
from cai_dagster.models.settings import EngineKind, LanguageModelSettings
from cai_dagster.settings import SETTINGS_FILE, Settings, load_settings
from cai_dagster.upkeep import preflight
from cai_dagster.upkeep.findings import Finding, Level
from cai_dagster.upkeep.preflight import examine_run
from tests.misbehaving_server import free_port
from tests.scripted_graph import write_prompts
from tests.tiny_models import write_tiny_model

DEFAULT = load_settings(SETTINGS_FILE, "default")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "tiny")


def changed(settings: Any, changes: Mapping[str, Any]) -> Any:
    """The settings with some values changed, at any depth."""
    return settings.model_copy(
        update={
            name: changed(getattr(settings, name), value) if isinstance(value, dict) else value
            for name, value in changes.items()
        }
    )


def settings_for(tmp_path: Path, model: Path, prompts: list[str], **changes: Any) -> Settings:
    sources = write_prompts(tmp_path / "prompts.jsonl", prompts)["sources"]
    served = {"model": str(model), "max_model_len": 65_536}  # a token a byte
    usual = {"policy": served, "feedback_model": served, "prompts": {"sources": sources, "longest_prompt": 400}}
    return changed(changed(DEFAULT, usual), changes)


def found(findings: list[Finding], topic: str, level: Level = Level.problem) -> list[str]:
    return [finding.text for finding in findings if (finding.topic, finding.level) == (topic, level)]


def problems(findings: list[Finding]) -> list[str]:
    return [f"{finding.topic}: {finding.text}" for finding in findings if finding.level == Level.problem]


def test_ten_prompts_are_too_few_and_the_numbers_that_say_so_are_those_of_the_run(
    home: Home, tmp_path: Path, model: Path
) -> None:
    few = settings_for(tmp_path, model, [f"question {number}" for number in range(10)])
    findings = examine_run(home, few, ["v1"])
    sft, pairs = found(findings, "training")
    assert sft.endswith("sft_dataset.min_rows asks for 100")
    assert "reward_model.min_pairs asks for" in pairs
    (remedy,) = {one.remedy for one in findings if one.text == sft}
    assert "sft_dataset.min_rows = " in str(remedy)
    (counted,) = found(findings, "rows", Level.good)
    assert counted.startswith("10 prompts, ≤ 10 initial_responses, ")

    enough = changed(few, {"sft_dataset": {"min_rows": 4}, "reward_model": {"min_pairs": 1}})
    assert problems(examine_run(home, enough, ["v1"])) == []


def test_rows_that_the_checks_would_not_let_pass_are_counted_by_reason(home: Home, tmp_path: Path, model: Path) -> None:
    prompts = [f"question {number}" for number in range(20)] + ["x" * 500] * 1 + [f"y{n}" * 300 for n in range(9)]
    findings = examine_run(home, settings_for(tmp_path, model, prompts), ["v1"])
    assert "prompts: 10 of 30 rows would be set aside: 10 × bad_prompt" in found(findings, "rows")


def test_a_context_that_is_too_short_for_what_is_asked_sets_rows_aside(home: Home, tmp_path: Path, model: Path) -> None:
    settings = settings_for(
        tmp_path,
        model,
        [f"question {number} {'x' * 200}" for number in range(20)],
        policy={"max_model_len": 256},
        initial_responses={"max_tokens": 200},
    )
    findings = examine_run(home, settings, ["v1"])
    assert "initial_responses: 20 of 20 rows would be set aside: 20 × context_too_long" in found(findings, "rows")


def test_a_version_with_a_mistake_and_a_model_that_is_not_here_are_named_before_anything_is_counted(
    home: Home, tmp_path: Path, model: Path
) -> None:
    settings = settings_for(tmp_path, model, ["question"], feedback_model={"model": "nobody/nothing"})
    findings = examine_run(home, settings, ["v1", "v77"])
    assert "v77.yaml: there is no such file; the versions are v1, v2" in found(findings, "constitution")[0]
    assert "nobody/nothing" in found(findings, "feedback_model")[0]
    assert not [one for one in findings if one.topic in ("rows", "training")]


class Server(BaseHTTPRequestHandler):
    """The list of models of a server that speaks OpenAI's API; it wants a key."""

    served: ClassVar[list[str]] = ["tiny"]

    def do_GET(self) -> None:
        known = self.headers["Authorization"] == "Bearer secret"
        self.send_response(200 if known else 401)
        self.end_headers()
        self.wfile.write(json.dumps({"data": [{"id": name} for name in self.served]}).encode())

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


def served(urls: list[str], **more: Any) -> dict[str, Any]:
    return {"engine": EngineKind.http, "base_urls": urls, **more}


def test_servers_are_asked_for_their_models(
    home: Home, tmp_path: Path, model: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = f"http://127.0.0.1:{free_port()}/v1"
    ask = settings_for(tmp_path, model, ["question"], policy=served([url, silent]))
    monkeypatch.delenv("CAI_API_KEY", raising=False)
    refused, unanswered = found(examine_run(home, ask, ["v1"]), "policy")
    assert "refuses to list its models: 401" in refused
    assert f"{silent} does not list its models" in unanswered

    monkeypatch.setenv("CAI_API_KEY", "secret")
    monkeypatch.setattr(Server, "served", ["another"])
    other = settings_for(tmp_path, model, ["question"], policy=served([url]))
    (text,) = found(examine_run(home, other, ["v1"]), "policy")
    assert f"{url} serves another, not " in text


def test_what_servers_cannot_do_is_done_here_or_named(
    home: Home, tmp_path: Path, model: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAI_API_KEY", "secret")
    enough = {"sft_dataset": {"min_rows": 1}, "reward_model": {"min_pairs": 1}}
    questions = [f"question {number}" for number in range(30)]
    settings = settings_for(tmp_path, model, questions, policy=served([url]), **enough)
    findings = examine_run(home, settings, ["v1"])
    assert problems(findings) == []
    assert "asked in the run's own process" in found(findings, "unattended", Level.good)[0]

    on_servers = changed(settings, {"policy": {"checkpoints_here": False}})
    assert (
        "no server serves before it is trained"
        in found(examine_run(home, on_servers, ["v1"]), "unattended", Level.warning)[0]
    )
    monkeypatch.setattr(preflight.importlib.util, "find_spec", lambda name: None)
    assert "vLLM is not installed here" in found(examine_run(home, settings, ["v1"]), "unattended")[0]

    (model / "model.safetensors").unlink()
    assert "where the weights are not" in found(examine_run(home, settings, ["v1"]), "unattended")[0]


def test_a_disk_without_room_for_the_checkpoints_is_named(
    home: Home, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: usage._replace(free=2**20))
    findings = examine_run(home, settings_for(tmp_path, model, ["question"]), ["v1"])
    assert "0.0 GiB free" in found(findings, "disk")[0]


def test_the_setting_is_that_of_a_server_and_on_by_default() -> None:
    assert DEFAULT.policy.checkpoints_here
    assert "no server serves" in str(LanguageModelSettings.model_fields["checkpoints_here"].description)
