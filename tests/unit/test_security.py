"""What docs/security.md claims of the whole program: the rest of its claims are tested where the parts are."""

import ast
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from cai_dagster.commands import ui
from cai_dagster.home import Home
from cai_dagster.models.library_environment import keep_to_this_machine
from cai_dagster.profiles import profiles_of
from cai_dagster.project import EXAMPLE_INSTANCE, PROJECT
from cai_dagster.settings import SETTINGS_FILE, Settings, load_settings
from tests.misbehaving_server import free_port

PROGRAM = [file for folder in ("cai_dagster", "assets", "resources") for file in (PROJECT / folder).rglob("*.py")]
DANGEROUS_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
DANGEROUS_CALLS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load", "torch.save"),
    *(
        "yaml.load",
        "yaml.load_all",
        "yaml.unsafe_load",
        "yaml.full_load",
        "np.load",
        "numpy.load",
        "pl.read_database_uri",
    ),
}


def dangers(source: str) -> list[str]:
    """What in a module could run text or bytes as code."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names if name.name.split(".")[0] in DANGEROUS_MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in DANGEROUS_MODULES:
            found.append(str(node.module))
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            found += [called] if called in DANGEROUS_CALLS else []
            found += [
                "shell=True" for word in node.keywords if word.arg == "shell" and ast.unparse(word.value) != "False"
            ]
    return found


@pytest.mark.parametrize("file", PROGRAM, ids=lambda file: str(file.relative_to(PROJECT)))
def test_no_module_reads_pickles_evaluates_text_or_starts_a_shell(file: Path) -> None:
    assert dangers(file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    ["import pickle", "from joblib import load", "eval('1')", "yaml.load(text)", "subprocess.run(x, shell=True)"],
)
def test_a_dangerous_line_would_be_found(source: str) -> None:
    assert dangers(source)


def test_no_profile_runs_a_models_code() -> None:
    for profile in profiles_of(SETTINGS_FILE):
        settings: Settings = load_settings(SETTINGS_FILE, profile)
        assert not settings.policy.trust_remote_code
        assert not settings.feedback_model.trust_remote_code


def test_the_ui_listens_on_this_machine_only(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[str, ...]] = []
    monkeypatch.setattr(ui, "run_program", lambda *words, **_: started.append(words))
    monkeypatch.setattr(ui, "prepare_instance", lambda home: None)
    monkeypatch.delenv("CAI_PAGES", raising=False)
    ui.ui(port=free_port())
    assert os.environ.pop("CAI_PAGES").startswith("http://127.0.0.1:")
    (words,) = started
    assert words[words.index("--host") + 1] == "127.0.0.1"


def test_the_example_instance_sends_nothing() -> None:
    instance: dict[str, Any] = yaml.safe_load((EXAMPLE_INSTANCE).read_text(encoding="utf-8"))
    assert instance["telemetry"] == {"enabled": False}
    assert instance["nux"] == {"enabled": False}


def test_libraries_are_told_to_keep_to_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    for name in wanted:
        monkeypatch.delenv(name, raising=False)
    keep_to_this_machine()
    assert {name: os.environ[name] for name in wanted} == wanted
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    keep_to_this_machine()
    assert os.environ["HF_HUB_OFFLINE"] == "0"  # who sets it decides
