"""The graph with a scripted model in place of vLLM: for tests, and for the processes that tests start and kill."""

import json
import os
import sys
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from cai_dagster.calls.requests import Answer, Request
from cai_dagster.checks.settings import CheckSettings, Severity
from cai_dagster.definitions import build_definitions
from cai_dagster.hashing import content_hash
from cai_dagster.home import Home
from cai_dagster.lake.snapshots import Account
from cai_dagster.models.chat_format import fitting
from cai_dagster.models.chat_options import ChatOptions
from cai_dagster.models.messages import Messages
from cai_dagster.models.weights import Weights
from cai_dagster.settings import active_settings
from cai_dagster.training.checkpoints import CODE_VERSION, CheckpointRecord
from resources.engines.protocol import Log
from resources.lake import open_lake
from resources.language_models import LanguageModelResource, LedgerResource
from tests.fault_marks import append
from tests.scripted import Script, ScriptedEngine
from tests.tiny_models import write_tiny_weights

TABLES_OF_MODELS = ("initial_responses", "revision_rounds", "response_pairs", "judgements")
LONG_CONTEXT = {"max_model_len": 100_000}  # in characters, see ScriptedChatFormat
WITHOUT_TRAINING = ["constitution", "prompts", "initial_responses", "revision_rounds", "sft_dataset"]


class ScriptedChatFormat:
    """A token for each character; a turn begins with 0."""

    def __init__(self, folder: Path = Path(), options: ChatOptions | None = None) -> None: ...

    def prompt_ids(self, messages: Messages, prefill: str = "") -> list[int]:
        return [*self.dialogue_ids(messages), 0, *(ord(character) for character in prefill)]

    def dialogue_ids(self, messages: Messages) -> list[int]:
        return [token for message in messages for token in (0, *(ord(character) for character in message.content))]

    def tells_apart(self, prefill: str, choices: tuple[str, ...]) -> bool:
        return all(len(choice) == 1 for choice in choices)

    def completion_start(self, messages: Messages) -> int:
        return len(self.prompt_ids(messages[:-1]))


class ScriptedModelResource(LanguageModelResource):
    """A language model resource whose engine is scripted; `delay` seconds pass before each answer.

    Where `voice` is set, each answer ends with it and with what the request asked for in which seed.
    """

    delay: float = 0.0
    silent_on: str = ""
    answers_from_attempt: int = 1_000
    voice: str = ""
    log_calls: bool = False

    def weights(self) -> Weights:
        return Weights("scripted", Path(), "0" * 64)

    def chat_format(self) -> Any:
        return ScriptedChatFormat()

    def start_engine(self, weights: Weights, log: Log) -> ScriptedEngine:
        if not self.log_calls:
            return ScriptedEngine(self.script, self.judge, lambda request: self.delay)
        return LoggingEngine(weights.model_id(self.arithmetic), self.script, self.judge, self.delay)

    def script(self, request: Request) -> str:
        ids = ScriptedChatFormat().prompt_ids(request.messages, request.prefill)
        fitting(ids, request.sampling.max_tokens, self.max_model_len)
        silent = self.silent_on and any(self.silent_on in message.content for message in request.messages)
        if silent and request.attempt < self.answers_from_attempt:
            return " "
        slot, asked = request.slot, content_hash([message.content for message in request.messages], 8)
        said = f"{slot.stage} {slot.round}.{slot.sample}.{request.attempt} of {slot.prompt_id[:8]} when asked {asked}"
        return f"{said} {self.voice} {content_hash(request.completion_id(''), 8)}" if self.voice else said

    def judge(self, request: Request) -> tuple[float, ...]:
        """Prefers whichever text comes first in the alphabet, whatever its letter; scores by the first letter."""
        if request.prefill.endswith("1"):
            return (-3.0, -0.1)
        if request.prefill.startswith("The score"):
            best = ord(request.messages[-1].content.split("Response:\n> ")[1][0]) % 9
            return tuple(-0.1 if number == best else -4.0 for number in range(9))
        question = next(turn.content for turn in reversed(request.messages) if "Response (A):\n" in turn.content)
        first = question.split("Response (A):\n")[1]
        second = question.split("Response (B):\n")[1]
        return (-0.1, -2.5) if first < second else (-2.5, -0.1)


class LoggingEngine(ScriptedEngine):
    """Notes in CAI_HOME/calls.log each call that is asked and each that is answered, before anyone else knows."""

    def __init__(self, model_id: str, script: Script, logprobs: Any, delay: float) -> None:
        super().__init__(script, logprobs, lambda request: delay)
        self.model_id = model_id

    async def complete(self, request: Request) -> Answer:
        return await self._logged(request.completion_id(self.model_id), super().complete(request))

    async def choose(self, request: Request, choices: tuple[str, ...]) -> Answer:
        return await self._logged(request.choice_id(self.model_id, choices), super().choose(request, choices))

    async def _logged(self, request_id: str, call: Coroutine[Any, Any, Answer]) -> Answer:
        append("calls.log", f"asked {request_id}")
        answer = await call
        append("calls.log", f"answered {request_id}")
        return answer


def scripted_models(**fields: Any) -> tuple[ScriptedModelResource, ScriptedModelResource]:
    """Policy and feedback model."""
    settings = active_settings()
    ledger = LedgerResource()
    return (
        ScriptedModelResource(ledger=ledger, **{**settings.policy.model_dump(), **LONG_CONTEXT, **fields}),
        ScriptedModelResource(ledger=ledger, **{**settings.feedback_model.model_dump(), **LONG_CONTEXT, **fields}),
    )


def definitions(**fields: Any) -> dg.Definitions:
    """The real graph and lake with scripted policy and feedback model."""
    policy, feedback_model = scripted_models(**fields)
    return build_definitions({"ledger": LedgerResource(), "policy": policy, "feedback_model": feedback_model})


def bound_of_rejected_rows(
    monkeypatch: pytest.MonkeyPatch, at_most: float, severity: Severity = Severity.ERROR
) -> None:
    """As if settings.toml had this bound for the check rejected_share, of all tables."""
    settings = active_settings()
    bound = CheckSettings(at_most=at_most, severity=severity)
    changed = settings.model_copy(update={"checks": settings.checks.model_copy(update={"rejected_share": bound})})
    for module in ("assets.common.stage", "assets.checks"):
        monkeypatch.setattr(f"{module}.active_settings", lambda: changed)


def materialize(
    assets: Sequence[str],
    config: dict[str, Any],
    version: str = "v1",
    raise_on_error: bool = True,
    instance: dg.DagsterInstance | None = None,
    **fields: Any,
) -> dg.ExecuteInProcessResult:
    """Materialize assets of one version; `config` is launchpad config by asset."""
    graph = definitions(**fields)
    job = graph.resolve_implicit_job_def_def_for_assets([dg.AssetKey(asset) for asset in assets])
    assert job is not None
    run_config = {"ops": {asset: {"config": values} for asset, values in config.items() if asset in assets}}
    return job.execute_in_process(
        run_config=run_config,
        partition_key=version,
        asset_selection=[dg.AssetKey(asset) for asset in assets],
        raise_on_error=raise_on_error,
        instance=instance,
    )


def metadata(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    """The metadata of an asset's materialization."""
    (event,) = result.asset_materializations_for_node(asset)
    return {name: value.value for name, value in event.metadata.items()}


def write_prompts(file: Path, texts: Sequence[str]) -> dict[str, Any]:
    """A file of prompts and the config of the asset `prompts` that reads it."""
    # As turns: a text under `prompt` may be a dialogue.
    rows = [{"messages": [{"role": "user", "content": text}]} for text in texts]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"sources": [str(file)]}


def pretend_trained(home: Home, folder: Path, version: str = "v1", key: str = "ab") -> None:
    """A row of sl_cai_model that points to a folder with some numbers in place of weights."""
    write_tiny_weights(folder / "model.safetensors")
    record = CheckpointRecord(
        asset="sl_cai_model",
        checkpoint_key=key,
        constitution_version=version,
        base_model="scripted",
        label_policy=None,
        settings={},
        lake_snapshots={},
        row_counts={},
        metrics={},
        loss_curve=[],
        seconds=0,
        code_version=CODE_VERSION,
        created_at="2026-01-01T00:00:00Z",  # pyright: ignore
    )
    lake = open_lake(home)
    staged = lake.stage("sl_cai_model", version)
    row = {"checkpoint_key": key, "path": str(folder), "base_model": "scripted", "rows": 1}
    staged.add([{**row, "record": record.model_dump_json()}])
    staged.close()
    lake.commit(staged, Account("scripted", lake.data_version(staged)))


if __name__ == "__main__":
    # A process for a test to kill: `python -m tests.scripted_graph PROMPTS DELAY ASSET…` in the test's CAI_HOME.
    prompts, delay, *assets = sys.argv[1:]
    started = time.monotonic()
    materialize(assets, {"prompts": {"sources": [prompts]}}, delay=float(delay))
    print(f"{os.getpid()} done after {time.monotonic() - started:.1f} s")
