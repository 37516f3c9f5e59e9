"""Scoring: the reward of token rows under a checkpoint. Imports torch; import it where scoring happens."""

# The libraries below are typed in part only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

SCORE_BATCH = 8


def score_texts(
    checkpoint: Path, rows: Sequence[Sequence[int]], batch_size: int, report: Callable[[str], None]
) -> list[float]:
    """The reward of each row of token ids, in float32 (rows of different lengths are padded on the right)."""
    model: Any = AutoModelForSequenceClassification.from_pretrained(checkpoint, dtype=torch.float32)
    model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    padding = model.config.pad_token_id
    rewards: list[float] = []
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        width = max(len(row) for row in batch)
        ids = torch.tensor([[*row, *[padding] * (width - len(row))] for row in batch], device=model.device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in batch], device=model.device)
        with torch.inference_mode():
            rewards += model(input_ids=ids, attention_mask=mask).logits[:, 0].tolist()
        report(f"{min(start + batch_size, len(rows))} of {len(rows)} completions scored")
    return rewards
