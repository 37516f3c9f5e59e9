"""Replicas of the real small model on a local Ray cluster, against transformers in float32."""

from dataclasses import replace
from typing import Any

import pytest

from cai_dagster.chat_format import ChatFormat
from cai_dagster.home import Home
from cai_dagster.judging import LABELS
from cai_dagster.requests import ContextTooLongError, Message, Request, Sampling, Slot
from cai_dagster.settings import EngineKind, LanguageModelSettings
from cai_dagster.weights import Weights, with_adapter
from resources.accelerator import ACCELERATOR
from tests.e2e.conftest import together
from tests.e2e.test_engine import judge_request

REQUESTS = [replace(judge_request(number), slot=Slot("judgements", f"{number:02}")) for number in range(12)]


@pytest.fixture(scope="module")
def ray_settings(engine_settings: LanguageModelSettings) -> LanguageModelSettings:
    return engine_settings.model_copy(update={"engine": EngineKind.ray, "replicas": 2, "cpu_cache_gib": 1})


@pytest.fixture(scope="module")
def adapted(offline_weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """The model with a LoRA adapter whose weights are drawn, so that it changes every answer."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_pretrained(offline_weights.folder, dtype=torch.float32)
    config = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(folder / "drawn")
    return with_adapter(offline_weights, folder / "drawn", Home((folder / "home").resolve()))


def exact(weights: Weights, requests: list[Request]) -> list[list[float]]:
    """Log probabilities of the labels of each request by a forward pass of transformers."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    chat_format = ChatFormat(weights.folder)
    model: Any = AutoModelForCausalLM.from_pretrained(weights.folder, dtype=torch.float32)
    if weights.adapter is not None:
        model = PeftModel.from_pretrained(model, str(weights.adapter))
    values: list[list[float]] = []
    for request in requests:
        ids, labels = chat_format.choice_ids(request.messages, request.prefill, LABELS)
        with torch.inference_mode():
            values.append(torch.log_softmax(model(torch.tensor([ids])).logits[0, -1], dim=-1)[labels].tolist())
    return values


def served_by_both(weights: Weights, settings: LanguageModelSettings) -> Any:
    """The engine, once both of its replicas answer."""
    log: list[str] = []
    engine = ACCELERATOR.engine(weights, settings, log.append)
    while len([line for line in log if "serves on" in line]) < settings.replicas:
        together(lambda: [engine.choose(REQUESTS[0], LABELS)])
    return engine


def test_two_replicas_answer_as_transformers_does(
    offline_weights: Weights, ray_settings: LanguageModelSettings
) -> None:
    expected = exact(offline_weights, REQUESTS)
    engine = served_by_both(offline_weights, ray_settings)
    answers = together(lambda: [engine.choose(request, LABELS) for request in REQUESTS])
    for answer, values in zip(answers, expected, strict=True):
        assert answer.logprobs == pytest.approx(values, abs=1e-3)

    long = Request((Message("user", "word " * 3000),), Slot("t", "0"), Sampling(max_tokens=8))
    with pytest.raises(ContextTooLongError, match=r"^context_too_long: \d+ prompt tokens"):
        together(lambda: [engine.complete(long)])
    short = Request((Message("user", "Count from one to a hundred."),), Slot("t", "1"), Sampling(max_tokens=5))
    (answer,) = together(lambda: [engine.complete(short)])
    assert (answer.finish_reason, answer.completion_tokens) == ("length", 5)


def test_a_replica_serves_an_adapter(
    offline_weights: Weights, adapted: Weights, ray_settings: LanguageModelSettings
) -> None:
    expected, without = exact(adapted, REQUESTS[:4]), exact(offline_weights, REQUESTS[:4])
    engine = ACCELERATOR.engine(adapted, ray_settings.model_copy(update={"replicas": 1}), print)
    answers = together(lambda: [engine.choose(request, LABELS) for request in REQUESTS[:4]])
    for answer, values, base in zip(answers, expected, without, strict=True):
        assert answer.logprobs == pytest.approx(values, abs=1e-3)
        assert abs(values[0] - base[0]) > 0.01
