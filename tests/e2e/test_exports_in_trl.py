"""Exports in TRL's own trainers, as a user would load them: one step each on a tiny random model."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cai_dagster.commands.cli import app
from cai_dagster.constitution.constitution import Constitution, Principle
from cai_dagster.home import Home
from cai_dagster.lake.lake import Lake
from cai_dagster.lake.snapshots import Account
from tests.tiny_models import write_tiny_model

STEP = {
    "max_steps": 1,
    "per_device_train_batch_size": 2,
    "report_to": "none",
    "save_strategy": "no",
    "use_cpu": True,
    "bf16": False,
    "disable_tqdm": True,
    "max_length": 64,
}


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers of random weights over single bytes."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = write_tiny_model(tmp_path_factory.mktemp("tiny"), weights=None)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token = tokenizer.pad_token = "<|im_end|>"
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes, **ends)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def filled_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Four supervised examples and four pairs."""
    home = Home(tmp_path_factory.mktemp("home"))
    lake = Lake(home)
    question = [{"role": "user", "content": "Why?"}]
    answers = [[{"role": "assistant", "content": f"Because of {number}."}] for number in range(8)]
    examples = [
        {"prompt_id": f"{number:x}", "sample": 0, "round": 1, "messages": question + answers[number]}
        for number in range(4)
    ]
    pairs = [
        {
            "pair_id": f"{number:x}",
            "prompt_id": f"{number:x}",
            "prompt": question,
            "chosen": answers[number],
            "rejected": answers[number + 4],
            "p_chosen": 0.75,
            "label_policy": "soft",
            "source": "revisions",
            "split": "preference",
        }
        for number in range(4)
    ]
    constitution = Constitution("v1", (Principle("kind", "Is it kind?", "Be kind.", "Which is kinder?"),))
    tables = {"constitution": constitution.to_rows(), "sft_dataset": examples, "preference_pairs": pairs}
    for table, rows in tables.items():
        staged = lake.stage(table, "v1")
        staged.add(rows)
        staged.close()
        lake.commit(staged, Account("run", table))
    return home


@pytest.fixture
def exported(filled_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Export with `cai export`, load with `datasets`."""
    import datasets

    monkeypatch.setenv("CAI_HOME", str(filled_home.root))

    def export(table: str, export_format: str, file_format: str = "parquet") -> Any:
        folder = tmp_path / "out"
        wanted = ["--table", table, "--format", export_format, "--file-format", file_format, "--output", str(folder)]
        finished = CliRunner().invoke(app, ["export", *wanted])
        assert finished.exit_code == 0, finished.output
        return datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))

    return export


@pytest.mark.parametrize("export_format", ["trl", "messages"])
def test_supervised_data_train_in_the_sft_trainer(
    exported: Any, tiny_model: Path, tmp_path: Path, export_format: str
) -> None:
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    data = exported("sft_dataset", export_format)["train"]
    trainer = SFTTrainer(str(tiny_model), args=SFTConfig(str(tmp_path / "run"), **STEP), train_dataset=data)
    assert trainer.train().global_step == 1


@pytest.mark.parametrize("export_format", ["trl", "messages"])
def test_pairs_train_in_the_reward_trainer(exported: Any, tiny_model: Path, tmp_path: Path, export_format: str) -> None:
    from trl.trainer.reward_config import RewardConfig
    from trl.trainer.reward_trainer import RewardTrainer

    data = exported("preference_pairs", export_format, "jsonl")["train"]
    trainer = RewardTrainer(str(tiny_model), args=RewardConfig(str(tmp_path / "run"), **STEP), train_dataset=data)
    assert trainer.train().global_step == 1


@pytest.mark.parametrize("export_format", ["trl", "messages", "ultrafeedback"])
def test_pairs_train_in_the_dpo_trainer(exported: Any, tiny_model: Path, tmp_path: Path, export_format: str) -> None:
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    data = exported("preference_pairs", export_format)["train"]
    if export_format == "ultrafeedback":  # its prompt is a text beside whole dialogues, as in the original
        data = data.remove_columns("prompt")
    trainer = DPOTrainer(str(tiny_model), args=DPOConfig(str(tmp_path / "run"), **STEP), train_dataset=data)
    assert trainer.train().global_step == 1


def test_unpaired_data_train_in_the_kto_trainer(exported: Any, tiny_model: Path, tmp_path: Path) -> None:
    from trl.trainer.kto_config import KTOConfig
    from trl.trainer.kto_trainer import KTOTrainer

    data = exported("preference_pairs", "kto")["train"]
    trainer = KTOTrainer(str(tiny_model), args=KTOConfig(str(tmp_path / "run"), **STEP), train_dataset=data)
    assert trainer.train().global_step == 1


def test_an_imported_constitution_is_said_with_what_was_left_out(tmp_path: Path) -> None:
    source, written = tmp_path / "swarm.json", tmp_path / "made.yaml"
    value = {"constitutions": [{"critic": "Is it kind?", "revision": "Be kind."}], "system_chat": [[]]}
    source.write_text(json.dumps(value), encoding="utf-8")
    arguments = ["import", "constitution", str(source), "--output", str(written), "--licence", "MIT"]
    finished = CliRunner().invoke(app, arguments)
    assert finished.exit_code == 0, finished.output
    assert f"{written}: 1 principles" in finished.output
    assert "left out: swarm.json: system_chat[0]: it is not a list of turns" in finished.output
    with pytest.raises(SystemExit):
        app(arguments, standalone_mode=False)
