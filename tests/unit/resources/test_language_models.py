"""The resource in front of the engines: under which identity a model is asked, and what its servers are told to be."""

from pathlib import Path
from typing import Any

import pytest

from cai_dagster.home import Home
from cai_dagster.models.settings import Dtype, EngineKind, LanguageModelSettings
from cai_dagster.models.weights import Weights, WeightsError, weights_of
from cai_dagster.settings import active_settings
from resources import language_models
from resources.engines.http.models import NotServedError
from resources.language_models import LanguageModelResource, LedgerResource
from tests.scripted import ScriptedEngine
from tests.tiny_models import write_tiny_model


@pytest.fixture
def folder(tmp_path: Path, home: Home) -> Path:
    return write_tiny_model(tmp_path / "tiny")


def resource(folder: Path, **changes: Any) -> LanguageModelResource:
    values = {**active_settings().policy.model_dump(), "model": str(folder), **changes}
    return LanguageModelResource(ledger=LedgerResource(), **values)


def model_id(model: LanguageModelResource) -> str:
    return model.language_model(print).model_id


def test_over_http_an_unknown_type_is_never_taken_for_a_known_one(folder: Path) -> None:
    http = {"engine": EngineKind.http, "base_urls": ["http://here/v1"]}
    assert "/auto/" in model_id(resource(folder, **http))
    assert "/auto/" not in model_id(resource(folder))


def test_a_type_that_is_named_shares_the_ledger_between_engines(folder: Path) -> None:
    named = {"dtype": Dtype.float32}
    http = {"engine": EngineKind.http, "base_urls": ["http://here/v1"]}
    assert model_id(resource(folder, **named, **http)) == model_id(resource(folder, **named))


def test_a_model_without_weights_can_be_asked_over_http_and_never_trained(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    model = resource(folder, engine=EngineKind.http, base_urls=["http://here/v1"], revision="v1")
    assert model_id(model) != model_id(model.model_copy(update={"revision": "v2"}))
    assert model.chat_format().tokenizer
    with pytest.raises(WeightsError, match="no safetensors"):
        model.weights()
    with pytest.raises(WeightsError, match="no safetensors"):
        resource(folder).language_model(print)


def test_only_the_configured_model_may_be_served_under_another_name(
    folder: Path, tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []

    class Accelerator:
        def engine(self, weights: Weights, settings: LanguageModelSettings, log: object) -> ScriptedEngine:
            names.append(settings.served_model)
            return ScriptedEngine()

    monkeypatch.setattr(language_models, "ACCELERATOR", Accelerator())
    model = resource(folder, engine=EngineKind.http, base_urls=["http://here/v1"], served_model="gpt-tiny")
    checkpoint = weights_of("sl_cai_model-0123456789ab", write_tiny_model(tmp_path / "trained", b"other"), home)
    model.start_engine(model.served_weights(), print)
    model.start_engine(checkpoint, print)
    assert names == ["gpt-tiny", "sl_cai_model-0123456789ab"]


@pytest.mark.parametrize("here", [True, False])
def test_a_checkpoint_that_no_server_serves_is_asked_in_this_process_or_said_to_be_served_by_nobody(
    folder: Path, tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch, here: bool
) -> None:
    started: list[EngineKind] = []

    class Accelerator:
        def engine(self, weights: Weights, settings: LanguageModelSettings, log: object) -> ScriptedEngine:
            if settings.engine == EngineKind.http:
                raise NotServedError("http://here/v1: it serves 'tiny'.")
            started.append(settings.engine)
            return ScriptedEngine()

    monkeypatch.setattr(language_models, "ACCELERATOR", Accelerator())
    model = resource(folder, engine=EngineKind.http, base_urls=["http://here/v1"], checkpoints_here=here)
    checkpoint = weights_of("sl_cai_model-0123456789ab", write_tiny_model(tmp_path / "trained", b"other"), home)
    said: list[str] = []
    if here:
        model.start_engine(checkpoint, said.append)
        assert started == [EngineKind.auto]
        assert said == ["http://here/v1: it serves 'tiny'. It is asked in this process instead (checkpoints_here)."]
    else:
        with pytest.raises(NotServedError):
            model.start_engine(checkpoint, said.append)
    with pytest.raises(NotServedError):  # the configured model is the servers' business
        model.start_engine(model.served_weights(), said.append)
