"""The code in the documents works: Python runs, shell lines parse, settings and constitutions are accepted.

Python blocks of a page run in order in one namespace, on a home in which a scripted model has made versions v1 and v2,
with its folder `.cai` below the working directory. Shell blocks are held against the commands there are; one below
`<!-- run -->` is run as well (its `cai` lines), in order with the page's Python. A block below
`<!-- not run: reason -->` is compiled or parsed and no more, and listed with its reason among the skipped tests.
"""

import ast
import asyncio
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.instance.ref import InstanceRef

import cai_dagster.home
from cai_dagster.constitution.constitution import load_constitution
from cai_dagster.home import STORAGE, Home, shared_place
from cai_dagster.project import EXAMPLE_INSTANCE, PROJECT
from cai_dagster.settings import SETTINGS_FILE, load_settings
from resources.lake import open_lake
from tests.documents import Block, all_blocks, name_of
from tests.shell_lines import check_command, commands

PYTHON, SHELL, TOML, YAML, JSON = (list(all_blocks(language)) for language in ("python", "sh", "toml", "yaml", "json"))
EXECUTED = [block for block in all_blocks("python", "sh") if block.language == "python" or block.remark == "run"]

MAKE_A_HOME = """
import sys
from pathlib import Path
from tests.fault_workloads import EVERYTHING, script_the_trainers
script_the_trainers()
from tests.scripted_graph import materialize, write_prompts
config = {
    "prompts": {**write_prompts(Path(sys.argv[1]), [f"question {n}" for n in range(40)]), "sft_share": 0.3},
    "revision_rounds": {"rounds": 1}, "sft_dataset": {"min_rows": 1}, "reward_model": {"min_pairs": 1},
}
for version in ("v1", "v2"):
    materialize(EVERYTHING, config, version=version, voice="steady")
"""


def of(blocks: list[Block]) -> pytest.MarkDecorator:
    """One test a block, named by document and line."""
    return pytest.mark.parametrize("block", blocks, ids=str)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with a home of two versions in `.cai`."""
    folder = tmp_path_factory.mktemp("workplace").resolve()
    made = subprocess.run(
        [sys.executable, "-c", MAKE_A_HOME, str(folder / "prompts.jsonl")],
        cwd=PROJECT,
        env={**os.environ, "CAI_HOME": str(folder / ".cai")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr[-4000:]
    shutil.copytree(folder / ".cai", folder / "pristine")
    return folder


def judging_names(_: Path) -> dict[str, Any]:
    """What the code of docs/judging.md is handed."""
    from cai_dagster.constitution.constitution import Principle
    from cai_dagster.models.messages import Message
    from tests.scripted import ScriptedEngine, ScriptedModel

    scores = tuple(-4.0 if number != 8 else -0.1 for number in range(1, 11))
    return {
        "model": ScriptedModel(ScriptedEngine(logprobs=lambda request: scores)),
        "prompt_id": "ab" * 16,
        "prompt": (Message("user", "What is salt?"),),
        "completion": "A mineral.",
        "principle": Principle("kind", "Criticise.", "Revise.", "Which is kinder?"),
    }


def reward_model_names(workplace: Path) -> dict[str, Any]:
    """What the code of docs/reward-models.md is handed: a folder with a classifier, and a dialogue."""
    from transformers import AutoModelForSequenceClassification

    from tests.tiny_models import write_tiny_network

    folder = write_tiny_network(workplace / "reward_model")
    AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1).save_pretrained(folder)
    turns = [{"role": "user", "content": "What is salt?"}, {"role": "assistant", "content": "A mineral."}]
    return {"folder": folder, "messages": turns}


HANDED: dict[str, Callable[[Path], dict[str, Any]]] = {
    "docs/judging.md": judging_names,
    "docs/reward-models.md": reward_model_names,
}


class Page:
    """The blocks of one document, run in order, each once, in one namespace and on a home as it was made."""

    def __init__(self, workplace: Path, document: Path) -> None:
        open_lake.cache_clear()
        shutil.rmtree(workplace / ".cai")
        shutil.copytree(workplace / "pristine", workplace / ".cai")
        self.blocks = [block for block in EXECUTED if block.document == document and block.remark != "not run"]
        handed = HANDED.get(name_of(document))
        self.names: dict[str, Any] = handed(workplace) if handed else {}
        self.done = 0

    def run_up_to(self, block: Block) -> None:
        """Run the block and those before it that have not run yet."""
        while self.done <= self.blocks.index(block):
            self.done += 1
            current = self.blocks[self.done - 1]
            if current.language == "python":
                run_python(current, self.names)
            else:
                run_shell(current)


def run_python(block: Block, names: dict[str, Any]) -> None:
    """Execute the block; `await` may stand in it."""
    result = eval(compiled(block), names)  # our own documents
    if inspect.iscoroutine(result):
        asyncio.run(result)


def compiled(block: Block) -> Any:
    """The block's code, with lines as in the document."""
    return compile("\n" * block.line + block.code, str(block.document), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def run_shell(block: Block) -> None:
    """Run the block's `cai` lines."""
    for words in commands(block.code):
        if Path(words[0]).name == "cai":
            command = [sys.executable, "-c", "from cai_dagster.commands.cli import app; app()", *words[1:]]
            finished = subprocess.run(command, capture_output=True, text=True, check=False)
            assert finished.returncode == 0, f"{block}: {' '.join(words)}\n{finished.stderr}{finished.stdout}"


@pytest.fixture(scope="module")
def pages() -> dict[Path, Page]:
    """The documents of which a block has run."""
    return {}


@of(EXECUTED)
def test_python_and_marked_commands_run(
    block: Block, workplace: Path, pages: dict[Path, Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    if block.remark == "not run":
        compiled(block)
        pytest.skip(f"{block} is not run: {block.reason}")
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("CAI_HOME", str(workplace / ".cai"))
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(workplace / "datasets"))
    if block.document not in pages:
        pages[block.document] = Page(workplace, block.document)
    pages[block.document].run_up_to(block)


@of(SHELL)
def test_shell_lines_are_taken_by_the_programs_they_name(block: Block) -> None:
    found = commands(block.code)
    assert found
    for words in found:
        check_command(words)


@of(TOML)
def test_settings_are_valid(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a profile over the default one, whichever profile the block is for; `[storage]` is no profile."""
    if block.code.startswith("[storage]"):
        file = tmp_path / "settings.toml"
        file.write_text(block.code, encoding="utf-8")
        monkeypatch.setattr(cai_dagster.home, "SETTINGS_FILE", file)
        monkeypatch.setattr(cai_dagster.home, "_storage_section", cai_dagster.home._storage_section.__wrapped__)
        for place in tomllib.loads(block.code)["storage"]:
            monkeypatch.delenv(STORAGE[place], raising=False)
            assert shared_place(place)
        return
    headers = re.compile(r"^\[\w+\.", re.MULTILINE)
    assert headers.search(block.code), f"{block}: no [<profile>.<section>]"
    file = tmp_path / "settings.toml"
    documented = headers.sub("[documented.", block.code)
    file.write_text(f"{SETTINGS_FILE.read_text(encoding='utf-8')}\n{documented}", encoding="utf-8")
    load_settings(file, "documented")


@of(YAML)
def test_yaml_is_a_constitution_launchpad_config_or_part_of_an_instance(block: Block, tmp_path: Path) -> None:
    value = yaml.safe_load(block.code)
    if set(value) == {"storage"}:
        (tmp_path / "dagster.yaml").write_text(EXAMPLE_INSTANCE.read_text() + block.code)
        InstanceRef.from_dir(str(tmp_path))
        return
    if set(value) <= {"ops", "resources", "execution", "loggers"}:
        from cai_dagster.definitions import defs

        job = defs.resolve_implicit_global_asset_job_def()
        selected = job.graph.node_dict
        assert set(value.get("ops", {})) <= set(selected)
        dg.validate_run_config(job, value)
        return
    whole = yaml.safe_load((PROJECT / "constitutions/v1.yaml").read_text(encoding="utf-8"))
    file = tmp_path / "documented.yaml"
    file.write_text(yaml.safe_dump({**whole, **value}), encoding="utf-8")
    load_constitution(file)


@of(JSON)
def test_json_parses(block: Block) -> None:
    try:
        json.loads(block.code)
    except ValueError:
        for line in block.code.splitlines():
            assert isinstance(json.loads(line), dict), block


def test_the_home_in_which_code_runs_has_both_versions(workplace: Path) -> None:
    lake = open_lake(Home(workplace / "pristine"))
    assert lake.snapshot("preference_pairs", "v1").frame().height
    assert lake.snapshot("reward_model", "v2").frame().height == 1
