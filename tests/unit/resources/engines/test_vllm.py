"""What is said of vLLM and to those who wait for it, without vLLM."""

import asyncio

import pytest

from resources.engines.vllm.calls import TokenAnswer, resolve
from resources.engines.vllm.start_log import reason_of


def test_an_answer_that_comes_after_its_stage_was_interrupted_harms_nobody() -> None:
    async def ask() -> "tuple[asyncio.AbstractEventLoop, asyncio.Future[TokenAnswer]]":
        loop = asyncio.get_running_loop()
        return loop, loop.create_future()

    loop, waiting = asyncio.run(ask())
    resolve(loop, [(waiting, TokenAnswer(b"too late", "stop", 2, 0))])
    assert not waiting.done()


@pytest.mark.parametrize(
    "said",
    [
        "EngineDeadError: EngineCore encountered an issue. See stack trace (above) for the root cause.",
        "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
        "",
    ],
)
def test_what_only_points_to_the_log_is_no_reason(said: str) -> None:
    log = "(EngineCore pid=7) ERROR 11-28 20:33:01 [core.py:999] torch.OutOfMemoryError: CUDA out of memory.\n"
    assert reason_of(said, f"{log}ValueError: of another process\n{said}\n") == (
        "OutOfMemoryError: CUDA out of memory."
    )
    assert reason_of(said, "") == (said or "no reason in its log")
    assert reason_of("ValueError: an odd model", log) == "ValueError: an odd model"
