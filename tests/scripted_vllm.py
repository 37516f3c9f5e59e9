"""`python -m tests.scripted_vllm FD`: the host of vLLM with a scripted model in vLLM's place, and processes like its.

What a prompt's first token says: 1 to be answered, 2 never to be, 3 to be refused, 4 for the model to die, 5 for its
process to be killed.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time

from cai_dagster.models.settings import LanguageModelSettings
from cai_dagster.models.weights import Weights
from resources.engines.vllm.calls import TokenAnswer, TokenCall
from resources.engines.vllm.host import main

ANSWERED, SILENT, REFUSED, DEADLY, KILLING = range(1, 6)
LIKE_AN_ENGINE = [sys.executable, "-c", "import time; time.sleep(600)"]


class ScriptedVllm:
    """Starts a process, as vLLM does. `weights.name` may be a failure of its start."""

    def __init__(self, weights: Weights, settings: LanguageModelSettings) -> None:
        self.errored = False
        self._engine = subprocess.Popen(LIKE_AN_ENGINE)
        print("INFO 11-28 20:33:00 [loader.py:99] Loading weights took 1.00 seconds", flush=True)
        match weights.name:
            case "too large":
                place = "(EngineCore pid=7) ERROR 11-28 20:33:01 [core.py:999]"
                print(f"{place} torch.OutOfMemoryError: CUDA out of memory.", flush=True)
                raise RuntimeError("Engine core initialization failed. See root cause above. Failed core proc(s): {}")
            case "unknown":
                raise ValueError("Model architectures ['Odd'] are not supported.\nThere are others.")
            case "slow":
                time.sleep(600)
            case _:
                pass

    async def ask(self, number: int, call: TokenCall) -> TokenAnswer:
        """What the prompt's first token says."""
        match call.token_ids[0]:
            case 2:
                await asyncio.sleep(600)
            case 3:
                raise ValueError("this prompt is refused")
            case 4:
                self.errored = True
                raise RuntimeError("EngineCore encountered an issue. See root cause above.")
            case 5:
                os.kill(os.getpid(), signal.SIGKILL)
            case _:
                pass
        text = f"answer {number} to \ud83d".encode("utf-8", "surrogatepass")
        logprobs = tuple(-0.5 * label for label in call.labels)
        return TokenAnswer(text, "stop", len(call.token_ids), 2, logprobs)

    def shutdown(self) -> None:
        """End the process."""
        self._engine.kill()
        self._engine.wait()


if __name__ == "__main__":
    main(int(sys.argv[1]), ScriptedVllm)
