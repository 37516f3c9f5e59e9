"""What a fault test starts and kills: `python -m tests.fault_workloads KIND ARGUMENT…` in the test's CAI_HOME.

`graph PROMPTS VERSION DELAY [VOICE]`: all eleven assets with scripted model, trainers and scoring.
`training BASE`: the real trainer on a small model. `conversion`: the offline model made from its package.
Each marks where it is (`fault_marks`) and logs each call that its scripted engine answers.
"""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fault_marks import DONE, WORKING, mark
from tests.token_rows import on_disk

EVERYTHING = [
    "constitution",
    "prompts",
    "initial_responses",
    "revision_rounds",
    "sft_dataset",
    "sl_cai_model",
    "response_pairs",
    "judgements",
    "preference_pairs",
    "reward_model",
    "reward_model_evaluation",
]
SILENT = "say nothing"


def marked(owner: Any, name: str, begin: str, end: str = "") -> None:
    """Mark each call of a function: `{0}`, `{1}` … in the texts are its arguments."""
    function: Callable[..., Any] = getattr(owner, name)

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        mark(begin.format(*arguments))
        try:
            return function(*arguments, **named)
        finally:
            if end:
                mark(end.format(*arguments))

    setattr(owner, name, call)


def script_the_trainers() -> None:
    """Put scripted trainers, scoring and tokenizer where the assets look for the real ones."""
    import assets.dpo_model as _assets_dpo_model  # noqa: F401
    import assets.reward_model as _assets_reward_model  # noqa: F401
    import assets.rlaif_model as _assets_rlaif_model  # noqa: F401
    import cai_dagster.evaluation.reward_model
    import cai_dagster.training.policy_optimization
    from tests import scripted_trainers
    from tests.scripted_graph import ScriptedChatFormat

    for name in ("trainers", "policy_trainers", "scoring"):
        sys.modules[f"cai_dagster.training.{name}"] = scripted_trainers
    for module in ("assets.reward_model", "assets.dpo_model", "assets.rlaif_model"):
        sys.modules[module].__dict__["ChatFormat"] = ScriptedChatFormat
    for recipes in (cai_dagster.evaluation.reward_model, cai_dagster.training.policy_optimization):
        recipes.__dict__["ChatFormat"] = ScriptedChatFormat


def mark_the_graph() -> None:
    """Mark stages, commits of tables (and the transactions in them) and commits of calls; log paid calls."""
    import cai_dagster.calls.row_stream
    from cai_dagster.calls.ledger import Ledger
    from cai_dagster.lake.lake import Lake

    marked(cai_dagster.calls.row_stream, "run_rows", "streaming {4.table.name}", "between stages")
    marked(Lake, "commit", "committing {1.table.name}", "between stages")
    marked(Lake, "_append_account", "in the transaction of {1}")
    marked(Ledger, "put", "ledger commit", "streaming after a ledger commit")


def run_graph(prompts: str, version: str, delay: str, voice: str = "steady") -> None:
    """All assets of a version. Runs of different voices give different answers to the same request."""
    from tests.scripted_graph import materialize

    script_the_trainers()
    mark_the_graph()
    # Imported before it counts as working: a process that is killed while it imports has touched nothing yet.
    import altair as _altair  # noqa: F401
    import scipy.stats as _stats  # noqa: F401

    config: dict[str, Any] = {
        "prompts": {"sources": [prompts], "sft_share": 0.3, "preference_share": 0.5},
        "revision_rounds": {"rounds": 2},
        "sft_dataset": {"min_rows": 1},
        "reward_model": {"min_pairs": 1},
    }
    mark(WORKING)
    fields = {"delay": float(delay), "silent_on": SILENT, "voice": voice, "log_calls": True}
    materialize(EVERYTHING, config, version, **fields)


def run_training(base: str) -> None:
    """A supervised training through `train_once`."""
    from transformers import PreTrainedModel, Trainer

    from cai_dagster.home import Home
    from cai_dagster.models.chat_options import USUAL
    from cai_dagster.settings import active_settings
    from cai_dagster.training.checkpoints import Ingredients, TrainingOutcome, train_once
    from cai_dagster.training.settings import TrainingSettings
    from cai_dagster.training.supervised import TokenRow
    from cai_dagster.training.trainers import train_supervised

    marked(Trainer, "training_step", "training")
    marked(PreTrainedModel, "save_pretrained", "saving", "saved")
    changes = {"batch_size": 4, "device_batch_size": 4, "max_length": 32, "epochs": 10, "learning_rate": 1e-2}
    settings = TrainingSettings.model_validate(active_settings().sl_cai_model.model_dump() | changes)
    rows = [TokenRow.of([1, 60 + number, 70, 71, 2], 2) for number in range(16)]

    def train(folder: Path) -> TrainingOutcome:
        return train_supervised(Path(base), on_disk(rows), on_disk(rows), settings, USUAL, lambda _: None, folder)

    mark(WORKING)
    train_once(
        Home.from_environment(), Ingredients("sl_cai_model", "v1", "tiny", "00", settings.model_dump(), {}), train
    )


def run_conversion() -> None:
    """The offline model into an empty home."""
    import torch  # noqa: F401
    import transformers  # noqa: F401

    from cai_dagster.home import Home
    from cai_dagster.models import offline as offline_model

    marked(offline_model, "_load_packed", "reading", "writing")
    mark(WORKING)
    offline_model.prepare_offline_model(Home.from_environment())


def make_tiny_model(folder: str) -> None:
    """Two layers of random weights with a byte-level tokenizer."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(fast), **sizes)).save_pretrained(folder)


KINDS: dict[str, Callable[..., None]] = {
    "graph": run_graph,
    "training": run_training,
    "conversion": run_conversion,
    "tiny": make_tiny_model,
}


if __name__ == "__main__":
    kind, *arguments = sys.argv[1:]
    KINDS[kind](*arguments)
    mark(DONE)
