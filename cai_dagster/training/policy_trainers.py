"""The trainers of policies: TRL's DPO and RLOO, given token rows. Imports torch; import it where training happens.

As in `trainers`, tokens are made by `chat_format` and not by TRL. Apart from there, because RLOO imports vLLM.
The formulas are in `policy_optimization`.
"""

# The libraries below are typed in part only.
# pyright: reportMissingTypeStubs=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import TaskType
from transformers import AutoModelForCausalLM, PrinterCallback, set_seed
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer
from trl.trainer.rloo_config import RLOOConfig
from trl.trainer.rloo_trainer import RLOOTrainer

from cai_dagster.models.chat_format import ChatFormat
from cai_dagster.models.chat_options import ChatOptions
from cai_dagster.models.library_environment import prepare_vllm
from cai_dagster.models.messages import Messages, messages_from_json
from cai_dagster.training.checkpoints import Curve, TrainingOutcome
from cai_dagster.training.policy_optimization import RewardReading, scored_dialogues
from cai_dagster.training.scoring import Scorer
from cai_dagster.training.settings import DpoLoss, DpoModelSettings, RlaifModelSettings, TrainingSettings
from cai_dagster.training.soft_label_collator import SoftLabelCollator
from cai_dagster.training.token_files import TokenFile
from cai_dagster.training.trainers import (
    ProgressCallback,
    Report,
    dataset_of,
    lora_config,
    save_model,
    trainer_arguments,
)

Reward = Callable[[Sequence[Messages], Sequence[str]], list[float]]
"""The reward of each completion of each prompt."""

CPU_CACHE_GIB = 2  # for vLLM on a CPU
_DPO_CURVES = {"rewards/margins": "margin", "rewards/accuracies": "accuracy"}
_RLOO_CURVES = {"reward": "reward", "kl": "kl_per_token", "completions/mean_length": "completion_tokens"}


def train_dpo(
    base: Path,
    pairs: TokenFile,
    settings: DpoModelSettings,
    options: ChatOptions,
    report: Report,
    folder: Path,
) -> TrainingOutcome:
    """Optimize the policy in `base` on `pairs` (CompletionPair), with itself as the reference; write it to `folder`.

    The curves are the mean margin m (in nats) of the batches and the share of their pairs with m > 0.
    """
    chat_format = ChatFormat(base, options)
    progress = _CurveKeeper(report, _DPO_CURVES)
    tokenizer: Any = chat_format.tokenizer
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    trainer = SoftLabelDpoTrainer(
        conservative=settings.loss == DpoLoss.conservative,
        model=_policy(base, settings, options),
        args=DPOConfig(
            **trainer_arguments(settings, pairs.count, folder),
            max_length=None,
            beta=settings.beta,
            loss_type=["robust" if settings.loss == DpoLoss.robust else "sigmoid"],
            label_smoothing=settings.label_smoothing,
            trust_remote_code=options.trust_remote_code,
        ),
        train_dataset=dataset_of(pairs),
        data_collator=SoftLabelCollator(DataCollatorForPreference(pad_token_id=padding), ("p_chosen",)),
        processing_class=tokenizer,
        peft_config=lora_config(settings, TaskType.CAUSAL_LM),
        callbacks=[progress],
    )
    trainer.remove_callback(PrinterCallback)
    metrics = {"train_loss": trainer.train().training_loss, **progress.last()}
    save_model(trainer, chat_format, settings, folder)
    return TrainingOutcome({"trained": pairs.count}, metrics, progress.loss_curve, progress.curves)


def train_rlaif(
    base: Path,
    prompts: TokenFile,
    reward: Reward,
    settings: RlaifModelSettings,
    options: ChatOptions,
    report: Report,
    folder: Path,
) -> TrainingOutcome:
    """Optimize the policy in `base` for reward − β·KL, with itself as the reference; write it to `folder`.

    It answers `prompts` (TrainingPrompt).
    Where vLLM draws the completions, it stays in this process: give it one of its own (`launch`).

    The curves are means over the completions sampled at a step: the reward (without KL), KL to the reference in nats
    a token, and tokens a completion.
    """
    chat_format = ChatFormat(base, options)
    progress = _CurveKeeper(report, _RLOO_CURVES)
    group = settings.completions_per_prompt
    of_all = prompts.count // settings.processes * settings.processes
    batched = settings.model_copy(update={"batch_size": min(settings.batch_size, of_all)})
    arguments = trainer_arguments(batched, prompts.count, folder)
    arguments["per_device_train_batch_size"] *= group  # TRL counts completions, the settings count prompts
    arguments["per_device_eval_batch_size"] *= group

    def reward_of_completions(completions: list[str], messages: list[str], **_: Any) -> list[float | None]:
        return [*reward([messages_from_json(text) for text in messages], completions)]

    trainer = TokenPromptTrainer(
        model=_policy(base, settings, options),
        reward_funcs=reward_of_completions,
        args=RLOOConfig(
            **arguments,
            num_generations=group,
            beta=settings.kl_coefficient,
            max_completion_length=settings.max_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            trust_remote_code=options.trust_remote_code,
            **(_vllm_arguments(settings) if settings.draws_with_vllm else {}),
        ),
        train_dataset=dataset_of(prompts),
        processing_class=chat_format.tokenizer,
        peft_config=lora_config(settings, TaskType.CAUSAL_LM),
        callbacks=[progress],
    )
    trainer.remove_callback(PrinterCallback)
    metrics = {"train_loss": trainer.train().training_loss, **progress.last()}
    save_model(trainer, chat_format, settings, folder)
    counts = {"trained": prompts.count, "steps": trainer.state.global_step}
    return TrainingOutcome(counts, metrics, progress.loss_curve, progress.curves)


def _vllm_arguments(settings: RlaifModelSettings) -> dict[str, Any]:
    """What RLOOConfig is told about vLLM, after what vLLM reads from the environment."""
    prepare_vllm(own_process=False, cpu_cache_gib=CPU_CACHE_GIB)
    return {
        "use_vllm": True,
        "vllm_mode": "colocate",
        "vllm_gpu_memory_utilization": settings.generation_memory,
        "vllm_max_model_length": settings.max_length,
    }


def reward_of_checkpoint(checkpoint: Path, reading: RewardReading, options: ChatOptions) -> Reward:
    """The reward of a reward model that stays in memory; it reads dialogues as in its own training."""
    chat_format, scorer = (
        ChatFormat(checkpoint, ChatOptions.of(checkpoint, options.trust_remote_code)),
        Scorer(checkpoint),
    )

    def reward(prompts: Sequence[Messages], completions: Sequence[str]) -> list[float]:
        return scorer.rewards([*scored_dialogues(prompts, completions, chat_format, reading)])

    return reward


class SoftLabelDpoTrainer(DPOTrainer):
    """TRL's DPOTrainer on token rows; with `conservative`, each pair's own P(chosen) in place of certainty.

    TRL applies label smoothing to its robust loss only, and the same to all pairs.
    """

    def __init__(self, conservative: bool, **arguments: Any) -> None:
        self._conservative = conservative
        super().__init__(**arguments)

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        return dataset  # it holds tokens already

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["prompt_ids", "chosen_ids", "rejected_ids", "p_chosen"]

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        p_chosen = inputs.pop("p_chosen")
        if not self._conservative:
            return super()._compute_loss(model, inputs, return_outputs)
        chosen, rejected = self._completion_log_probabilities(model, inputs)
        reference_chosen, reference_rejected = self.compute_ref_log_probs(self.ref_model or model, inputs)
        margin = self.beta * (chosen - reference_chosen - rejected + reference_rejected)
        log_sigmoid = torch.nn.functional.logsigmoid
        self._metrics["train"]["rewards/margins"].append(margin.mean().item())
        self._metrics["train"]["rewards/accuracies"].append((margin > 0).float().mean().item())
        return -(p_chosen * log_sigmoid(margin) + (1 - p_chosen) * log_sigmoid(-margin)).mean()

    def _completion_log_probabilities(self, model: Any, inputs: Mapping[str, Any]) -> tuple[Any, Any]:
        """The log π(completion | prompt) of the chosen half of a batch and of the rejected half."""
        labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
        outputs = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            labels=labels,
            use_cache=False,
            fused_lm_head=True,
        )
        return outputs.log_probs.sum(dim=1).chunk(2, dim=0)


class TokenPromptTrainer(RLOOTrainer):
    """TRL's RLOOTrainer on prompts that are tokens already.

    vLLM, where it draws the completions, is given each step's weights by `reload_weights`, its own way for training
    beside it: TRL writes into the model's tensors, which a CPU's vLLM has packed in another layout.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        if self.use_vllm:
            self.vllm_generation.sync_weights = self._hand_weights_to_vllm

    def _hand_weights_to_vllm(self) -> None:
        vllm = self.vllm_generation
        weights = vllm._iter_named_params()  # pyright: ignore[reportPrivateUsage]  (merges adapters, gathers shards)
        vllm.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        vllm.llm.reset_prefix_cache()

    def _tokenize_prompts(self, prompts: list[list[int]]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return prompts, None, {}


class _CurveKeeper(ProgressCallback):
    """Also keeps what else the trainer logs, under names of our own."""

    def __init__(self, report: Report, names: Mapping[str, str]) -> None:
        super().__init__(report)
        self._names = names
        self.curves: dict[str, Curve] = {name: [] for name in names.values()}

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        super().on_log(args, state, control, logs, **kwargs)
        for logged, name in self._names.items():
            if logs and logged in logs:
                self.curves[name].append((state.global_step, float(logs[logged])))

    def last(self) -> dict[str, float]:
        """The last value of each curve."""
        return {name: curve[-1][1] for name, curve in self.curves.items() if curve}


def _policy(base: Path, settings: TrainingSettings, options: ChatOptions) -> Any:
    set_seed(settings.seed)
    return AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, use_safetensors=True, trust_remote_code=options.trust_remote_code
    )
