"""The trainers: TRL's, given token rows. The only module that computes gradients; import it where training happens.

Token rows are made by `chat_format`, not by TRL: TRL tokenizes rendered text, in which a control token inside a
completion would open a turn.
"""

# The libraries below are typed in part only.
# pyright: reportMissingTypeStubs=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig, TaskType
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PrinterCallback,
    TrainerCallback,
    set_seed,
)
from trl.trainer.reward_config import RewardConfig
from trl.trainer.reward_trainer import DataCollatorForPreference, RewardTrainer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from cai_dagster.models.chat_format import ChatFormat
from cai_dagster.models.chat_options import ChatOptions
from cai_dagster.models.hardware import has_fast_bfloat16
from cai_dagster.training.checkpoints import TrainingOutcome
from cai_dagster.training.settings import Sharding, TrainingSettings
from cai_dagster.training.soft_label_collator import SoftLabelCollator
from cai_dagster.training.token_files import TokenFile

Report = Callable[[str], None]
LOGS_A_TRAINING = 20


def train_supervised(
    base: Path,
    rows: TokenFile,
    held_out: TokenFile | None,
    settings: TrainingSettings,
    options: ChatOptions,
    report: Report,
    folder: Path,
) -> TrainingOutcome:
    """Fine-tune a causal model on the completions of `rows` (TokenRow); write it to `folder`.

    Where there are held-out rows, their mean loss a token before and after is measured.
    """
    chat_format, measured = ChatFormat(base, options), held_out if held_out and held_out.count else None
    set_seed(settings.seed)
    model: Any = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, use_safetensors=True, trust_remote_code=options.trust_remote_code
    )
    progress = ProgressCallback(report)
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**trainer_arguments(settings, rows.count, folder), max_length=None, completion_only_loss=True),
        train_dataset=dataset_of(rows),
        eval_dataset=dataset_of(measured) if measured else None,
        processing_class=chat_format.tokenizer,
        peft_config=lora_config(settings, TaskType.CAUSAL_LM),
        callbacks=[progress],
    )
    trainer.remove_callback(PrinterCallback)
    metrics: dict[str, float] = {}
    if measured:
        metrics["held_out_loss_before"] = trainer.evaluate()["eval_loss"]
    metrics["train_loss"] = trainer.train().training_loss
    if measured:
        metrics["held_out_loss_after"] = trainer.evaluate()["eval_loss"]
    save_model(trainer, chat_format, settings, folder)
    counts = {"trained": rows.count, "held_out": measured.count if measured else 0}
    return TrainingOutcome(counts, metrics, progress.loss_curve)


def train_reward_model(
    base: Path,
    pairs: TokenFile,
    settings: TrainingSettings,
    options: ChatOptions,
    report: Report,
    folder: Path,
) -> TrainingOutcome:
    """Train a sequence-classification head (and the weights below it) on `pairs` (TokenPair); write it to `folder`.

    The loss weights are divided by their mean, so that they say what counts more and not how fast to learn.
    """
    chat_format = ChatFormat(base, options)
    set_seed(settings.seed)
    model: Any = AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=1, dtype=torch.float32, use_safetensors=True, trust_remote_code=options.trust_remote_code
    )
    progress = ProgressCallback(report)
    dataset = dataset_of(pairs)
    tokenizer: Any = chat_format.tokenizer
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    trainer = SoftLabelRewardTrainer(
        mean_weight=float(np.mean(dataset.data["loss_weight"])),
        model=model,
        args=RewardConfig(**trainer_arguments(settings, pairs.count, folder), max_length=None),
        train_dataset=dataset,
        data_collator=SoftLabelCollator(DataCollatorForPreference(pad_token_id=padding), ("p_chosen", "loss_weight")),
        processing_class=tokenizer,
        peft_config=lora_config(settings, TaskType.SEQ_CLS),
        callbacks=[progress],
    )
    trainer.remove_callback(PrinterCallback)
    loss = trainer.train().training_loss
    save_model(trainer, chat_format, settings, folder)
    return TrainingOutcome({"trained": pairs.count}, {"train_loss": loss}, progress.loss_curve)


class SoftLabelRewardTrainer(RewardTrainer):
    """TRL's RewardTrainer with P(chosen) for each pair in place of certainty; the formula is in `reward_modelling`.

    Of certain labels and equal weights the loss is TRL's own, with its `margin`.
    """

    def __init__(self, mean_weight: float, **arguments: Any) -> None:
        self._mean_weight = mean_weight
        super().__init__(**arguments)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean weighted soft-label Bradley–Terry loss of a batch: its first half is chosen, its second rejected."""
        p_chosen, margin, weight = (inputs.pop(name) for name in ("p_chosen", "margin", "loss_weight"))
        weight = weight / self._mean_weight
        outputs = model(**inputs, use_cache=False)
        chosen, rejected = torch.chunk(outputs.logits.squeeze(-1), chunks=2)
        ahead = chosen - rejected - margin
        log_sigmoid = torch.nn.functional.logsigmoid
        loss = -(weight * (p_chosen * log_sigmoid(ahead) + (1 - p_chosen) * log_sigmoid(-ahead))).mean()
        self._metrics["train"]["accuracy"].append((chosen > rejected).float().mean().item())
        return (loss, outputs) if return_outputs else loss

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["chosen_ids", "rejected_ids", "p_chosen", "margin", "loss_weight"]


class ProgressCallback(TrainerCallback):
    """Steps, loss and remaining time to the log; the loss curve for the record."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self.loss_curve: list[tuple[int, float]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Remember when the first step began."""
        self._started = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Report and keep the loss that was logged at this step."""
        if logs and "loss" in logs and state.is_world_process_zero:
            loss = float(logs["loss"])
            self.loss_curve.append((state.global_step, loss))
            a_step = (time.monotonic() - self._started) / state.global_step
            remaining = a_step * (state.max_steps - state.global_step)
            self._report(
                f"step {state.global_step} of {state.max_steps}, loss {loss:.4f}, about {remaining:.0f} s left"
            )


def trainer_arguments(settings: TrainingSettings, rows: int, folder: Path) -> dict[str, Any]:
    """What all of TRL's configs are given for so many rows; checkpoints in between are not kept.

    `batch_size` is that of all processes together.
    """
    on_gpu = torch.cuda.is_available()
    steps = max(1, round(rows * settings.epochs / settings.batch_size))
    of_a_process = max(1, settings.batch_size // settings.processes)
    device_batch = min(of_a_process, settings.device_batch_size)
    sharded = settings.processes > 1 and settings.sharding == Sharding.full
    return {
        "output_dir": str(folder.parent / "trainer"),
        "per_device_train_batch_size": device_batch,
        "per_device_eval_batch_size": device_batch,
        "gradient_accumulation_steps": max(1, of_a_process // device_batch),
        "num_train_epochs": settings.epochs,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": round(settings.warmup_share * steps),
        "seed": settings.seed,
        "use_cpu": not on_gpu,
        "bf16": has_fast_bfloat16(),  # autocast over float32 weights: bfloat16 weights would lose small updates
        "gradient_checkpointing": on_gpu and not sharded,
        "ddp_backend": "gloo" if torch.distributed.is_torchelastic_launched() and not on_gpu else None,
        "fsdp": sharded or None,
        "fsdp_config": {"version": 2, "activation_checkpointing": on_gpu} if sharded else None,
        "logging_steps": max(1, steps // LOGS_A_TRAINING),
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": on_gpu,
    }


def lora_config(settings: TrainingSettings, task: TaskType) -> LoraConfig | None:
    """LoRA adapters on all linear layers; None for full fine-tuning."""
    if settings.lora_rank == 0:
        return None
    return LoraConfig(
        r=settings.lora_rank, lora_alpha=2 * settings.lora_rank, target_modules="all-linear", task_type=task
    )


def dataset_of(rows: TokenFile) -> Dataset:
    """The rows of a file, mapped into memory."""
    return Dataset.from_file(str(rows.path))


def save_model(trainer: Any, chat_format: ChatFormat, settings: TrainingSettings, folder: Path) -> None:
    """A plain Hugging Face folder: LoRA adapters are merged, the tokenizer lies beside the weights.

    All processes take part in gathering the weights; the first writes them.
    """
    accelerator = trainer.accelerator
    weights = accelerator.get_state_dict(trainer.model) if trainer.is_fsdp_enabled else None
    if not accelerator.is_main_process:
        return
    model = accelerator.unwrap_model(trainer.model)
    if settings.lora_rank:
        model = model.merge_and_unload()
    model.save_pretrained(folder, state_dict=weights)
    chat_format.tokenizer.save_pretrained(folder)
    chat_format.options.save(folder)
