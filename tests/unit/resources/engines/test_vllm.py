"""What vLLM's thread does without vLLM."""

import asyncio

from resources.engines.vllm.calls import TokenAnswer, TokenCall
from resources.engines.vllm.in_process import _Call, _resolve  # pyright: ignore[reportPrivateUsage]


def test_an_answer_that_comes_after_its_stage_was_interrupted_harms_nobody() -> None:
    async def ask() -> _Call:
        waiting: asyncio.Future[TokenAnswer] = asyncio.get_running_loop().create_future()
        return _Call(TokenCall([1]), waiting)

    call = asyncio.run(ask())
    _resolve(call, TokenAnswer(b"too late", "stop", 2, 0))
    assert not call.waiting.done()
