"""Settings of training: which rows, which loss, how long."""

from enum import StrEnum

from pydantic import Field, model_validator

from cai_dagster.models.hardware import has_gpu
from cai_dagster.strict_model import StrictModel


class TrainedRounds(StrEnum):
    """Which revisions are trained on."""

    final = "final"
    all = "all"


class DpoLoss(StrEnum):
    """What direct preference optimization minimises."""

    sigmoid = "sigmoid"
    conservative = "conservative"
    robust = "robust"


class RewardModelBase(StrEnum):
    """The weights a reward model starts from."""

    sl_cai_model = "sl_cai_model"
    policy = "policy"


class RewardLabels(StrEnum):
    """The labels that a reward model is trained on."""

    soft = "soft"
    hard = "hard"


class Sharding(StrEnum):
    """What each of several processes holds of a model in training."""

    none = "none"
    full = "full"


class Generation(StrEnum):
    """What draws the completions of a policy in training."""

    auto = "auto"
    transformers = "transformers"
    vllm = "vllm"


class SftDatasetSettings(StrictModel):
    """Which revisions become supervised examples."""

    rounds: TrainedRounds = Field(description="Train on the last revision only, or on all, as the paper did.")
    min_rows: int = Field(ge=1, description="Fewer examples than this fail the asset.")


class TrainingSettings(StrictModel):
    """How a model is fine-tuned."""

    learning_rate: float = Field(gt=0, le=1, description="Peak learning rate; linear decay after the warm-up.")
    epochs: float = Field(gt=0, le=100, description="Passes over the rows.")
    batch_size: int = Field(ge=1, le=4096, description="Rows (or pairs) for each optimizer step.")
    device_batch_size: int = Field(ge=1, le=4096, description="Of these at once; the rest is gradient accumulation.")
    max_length: int = Field(ge=16, description="Tokens of a row that are kept.")
    warmup_share: float = Field(ge=0, lt=1, description="Share of the steps in which the learning rate rises.")
    lora_rank: int = Field(ge=0, le=1024, description="Rank of LoRA adapters, merged at the end; 0: full fine-tuning.")
    seed: int = Field(ge=0, lt=2**31, description="Order of the rows and initial weights of a new head.")
    processes: int = Field(
        ge=1,
        le=64,
        description="Processes that train together, one a GPU (torchrun). A batch is that of all together.",
    )
    sharding: Sharding = Field(
        description="processes > 1: none: each holds the whole model (DDP). full: weights, gradients and the "
        "optimizer's state are spread over them (FSDP), for full fine-tuning of models that fit no single GPU."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> "TrainingSettings":
        if self.sharding == Sharding.full and self.lora_rank:
            raise ValueError("sharding = full is for full fine-tuning: set lora_rank = 0, or sharding = none")
        if self.batch_size % self.processes:
            raise ValueError(f"batch_size {self.batch_size} is no multiple of processes {self.processes}")
        return self


class RewardModelSettings(TrainingSettings):
    """How the reward model is trained."""

    base: RewardModelBase = Field(description="The model whose weights it starts from.")
    min_pairs: int = Field(ge=1, description="Fewer usable pairs than this fail the asset.")
    labels: RewardLabels = Field(
        description="soft: the pair's P(chosen). hard: the chosen one is preferred for certain, by however little.",
    )
    margin: float = Field(
        ge=0,
        le=100,
        description="hard labels: how much the chosen one's reward must be ahead where P(chosen) is 1; in between it "
        "is this times 2·P(chosen) − 1. 0 is off. Touvron et al. 2023 (Llama 2, section 3.2.2) use 1 and 3.",
    )
    human_weight: float = Field(
        ge=0,
        le=1000,
        description="Loss of a pair of human_preferences against that of an AI-labelled one; 0 leaves them out.",
    )
    human_p_chosen: float = Field(
        gt=0.5, le=1, description="P(chosen) of a human-labelled pair without votes; with votes it is their share."
    )
    principle_conditioned: bool = Field(
        description="Make the principle part of the input and train on every pair under each principle it was judged "
        "by: the reward model then scores under the principle it is given.",
    )
    human_principle: str = Field(
        min_length=1, description="principle_conditioned: the principle under which human-labelled pairs are shown."
    )

    @model_validator(mode="after")
    def _margin_of_hard_labels(self) -> "RewardModelSettings":
        if self.margin and self.labels == RewardLabels.soft:
            raise ValueError("margin belongs to labels = hard: a soft label says already how far ahead to be")
        return self


class DpoModelSettings(TrainingSettings):
    """How a policy is optimized on preference pairs without a reward model."""

    loss: DpoLoss = Field(
        description="sigmoid: each label is certain (Rafailov et al. 2023). conservative: each pair's own P(chosen) is "
        "the label, so label smoothing is 1 − p. robust: every label is flipped with probability label_smoothing "
        "(Chowdhury et al. 2024).",
    )
    beta: float = Field(gt=0, le=100, description="β: the larger, the closer the policy stays to sl_cai_model.")
    label_smoothing: float = Field(
        ge=0, lt=0.5, description="robust: the share of labels that are wrong. The other losses do not read it."
    )
    min_pairs: int = Field(ge=1, description="Fewer usable pairs than this fail the asset.")


class RlaifModelSettings(TrainingSettings):
    """How a policy is optimized against the reward model; a row of `batch_size` is a prompt."""

    kl_coefficient: float = Field(
        ge=0, le=100, description="β in reward − β·KL(policy ‖ sl_cai_model), per completion, in nats."
    )
    completions_per_prompt: int = Field(
        ge=2, le=256, description="Completions sampled for each prompt; each is compared with the mean of the others."
    )
    temperature: float = Field(gt=0, le=2, description="Of the completions sampled in training.")
    top_p: float = Field(gt=0, le=1, description="Nucleus sampling in training; 1 is off, and the only unbiased value.")
    max_tokens: int = Field(ge=1, le=32_768, description="Longest completion in training, in tokens.")
    min_prompts: int = Field(ge=1, description="Fewer prompts of the split `preference` than this fail the asset.")
    generation: Generation = Field(
        description="What draws the completions: vllm (TRL's colocate mode: one beside each process of the training, "
        "given the weights of each step), or transformers. auto: vllm on a GPU, transformers on a CPU."
    )
    generation_memory: float = Field(
        gt=0, lt=1, description="vllm: the share of the GPU's memory that it takes; the training has the rest."
    )

    @model_validator(mode="after")
    def _spread_by_prompts(self) -> "RlaifModelSettings":
        if self.sharding == Sharding.full:
            raise ValueError("rlaif_model holds the whole model in each process: set sharding = none")
        if self.min_prompts < self.processes:
            raise ValueError(f"min_prompts {self.min_prompts} leaves some of {self.processes} processes without any")
        return self

    @property
    def draws_with_vllm(self) -> bool:
        """Whether vLLM draws the completions on this machine."""
        return self.generation == Generation.vllm or (self.generation == Generation.auto and has_gpu())
