"""What follows from the settings of a model: its identity, where it runs, how much of it at once."""

from typing import Any

import pytest

from cai_dagster.models import hardware, settings
from cai_dagster.models.settings import LanguageModelSettings
from cai_dagster.settings import active_settings


def policy(**changes: Any) -> LanguageModelSettings:
    known = active_settings().policy.model_dump()
    return LanguageModelSettings.model_validate({**known, "dtype": "bfloat16", **changes})


@pytest.fixture(params=[False, True])
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    for module in (hardware, settings):
        monkeypatch.setattr(module, "has_gpu", lambda: request.param)
    return request.param


def test_the_identity_has_what_changes_answers_and_nothing_else() -> None:
    same: list[dict[str, Any]] = [
        {"tensor_parallel_size": 2},
        {"gpu_memory_utilization": 0.5},
        {"calls_in_flight": 8},
        {"engine": "own_process"},
        {"engine_arguments": {"block_size": 64, "speculative_config": {"method": "ngram"}}},
        {"head_dtype": "bfloat16"},
    ]
    other: list[dict[str, Any]] = [
        {"dtype": "float32"},
        {"head_dtype": "float32"},
        {"quantization": "fp8"},
        {"engine_arguments": {"kv_cache_dtype": "fp8"}},
        {"engine_arguments": {"kv_cache_dtype": "fp8_e5m2"}},
        {"engine_arguments": {"an_argument_of_a_later_vllm": 1}},
    ]
    assert {policy(**changes).arithmetic for changes in same} == {"bfloat16"}
    identities = [policy(**changes).arithmetic for changes in other]
    assert len({*identities, "bfloat16"}) == len(other) + 1
    assert identities[:3] == ["float32", "bfloat16+float32-head", "bfloat16+fp8"]


def test_a_judge_has_a_head_in_float32_and_a_policy_that_of_its_weights() -> None:
    chosen = active_settings()
    assert (chosen.feedback_model.head_dtype, chosen.policy.head_dtype) == ("float32", "auto")


def test_vllm_has_a_process_of_its_own_on_a_gpu_only(gpu: bool) -> None:
    assert policy(engine="auto").runs_in == ("own_process" if gpu else "in_process")
    for engine in ("in_process", "own_process", "http", "ray"):
        assert policy(engine=engine).runs_in == engine


def test_seeds_are_sent_where_they_cost_nothing_unless_the_setting_says(gpu: bool) -> None:
    assert policy(reproducible="auto").sends_seeds is not gpu
    assert policy(reproducible="auto", engine="http").sends_seeds
    assert policy(reproducible="always").sends_seeds
    assert not policy(reproducible="never").sends_seeds


def test_servers_are_asked_by_as_many_processes_as_they_and_the_rows_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings.os, "cpu_count", lambda: 3)
    urls = [f"http://{number}/v1" for number in range(16)]
    served = policy(engine="http", base_urls=urls)
    assert [served.drivers_for(rows) for rows in (0, 1_999, 2_000, 3_000, 1_000_000)] == [1, 1, 2, 3, 3]
    assert policy(engine="http", base_urls=urls[:7]).drivers_for(1_000_000) == 1
    assert policy(engine="http", base_urls=urls[:1], drivers=8).drivers_for(1_000_000) == 8
    assert policy(engine="http", base_urls=urls[:1], drivers=8).drivers_for(5) == 5
    assert policy(engine="ray", replicas=16).drivers_for(1_000_000) == 1
    with pytest.raises(ValueError, match="drivers > 1 is for engine"):
        policy(engine="ray", drivers=2)


def test_rows_in_work_are_twice_what_all_engines_can_run(gpu: bool) -> None:
    slots = 512 if gpu else 64
    urls = ["http://one/v1", "http://two/v1"]
    assert policy().rows_in_flight == 2 * slots
    assert policy(data_parallel_size=2).rows_in_flight == 4 * slots
    assert policy(engine="ray", replicas=3).rows_in_flight == 6 * slots
    assert policy(engine="http", base_urls=urls).rows_in_flight == 2 * 2 * 256
    assert policy(engine="http", base_urls=urls, calls_in_flight=10).rows_in_flight == 40
    assert policy(calls_in_flight=10).rows_in_flight == 20
