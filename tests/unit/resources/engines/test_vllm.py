"""What vLLM's thread does without vLLM."""

import asyncio
from typing import Any

from resources.engines.vllm import _Generation, _resolve  # pyright: ignore[reportPrivateUsage]


def test_an_answer_that_comes_after_its_stage_was_interrupted_harms_nobody() -> None:
    async def ask() -> _Generation:
        waiting: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        return _Generation([1], None, waiting)

    call = asyncio.run(ask())
    _resolve(call, "too late")
    assert not call.waiting.done()
