"""Scoring: the reward of token rows under a checkpoint. Imports torch; import it where scoring happens."""

# The libraries below are typed in part only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

SCORE_BATCH = 8


class Scorer:
    """A reward model in memory."""

    def __init__(self, checkpoint: Path) -> None:
        """Load a sequence classifier with one output: in bfloat16 on a GPU, else in float32."""
        device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
        model: Any = AutoModelForSequenceClassification.from_pretrained(checkpoint, dtype=dtype, use_safetensors=True)
        self._model = model.to(device).eval()
        self._padding: int | None = getattr(self._model.config, "pad_token_id", None)

    def rewards(self, rows: Sequence[Sequence[int]]) -> list[float]:
        """The reward of each row of token ids, all in one batch (padded on the right).

        The model takes its reward where a row ends, which it finds by the padding token. One without such a token is
        given one that is in none of the rows.
        """
        width = max(len(row) for row in rows)
        padding, device = self._padding, self._model.device
        if padding is None:
            used = {token for row in rows for token in row}
            padding = next(token for token in range(len(used) + 1) if token not in used)
            self._model.config.pad_token_id = padding
        ids = torch.tensor([[*row, *[padding] * (width - len(row))] for row in rows], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
        with torch.inference_mode():
            return self._model(input_ids=ids, attention_mask=mask).logits[:, 0].tolist()

    def score(
        self,
        rows: Sequence[Sequence[int]],
        batch_size: int,
        report: Callable[[str], None],
        before: int = 0,
        total: int | None = None,
    ) -> list[float]:
        """The reward of each row of token ids; rows of like length share a batch, so that little is padded.

        `report` is told how many were scored, after `before` that were scored earlier, of `total`.
        """
        rewards = [0.0] * len(rows)
        by_length = sorted(range(len(rows)), key=lambda index: len(rows[index]), reverse=True)
        for start in range(0, len(rows), batch_size):
            batch = by_length[start : start + batch_size]
            for index, reward in zip(batch, self.rewards([rows[index] for index in batch]), strict=True):
                rewards[index] = reward
            report(f"{before + start + len(batch):,} of {total or len(rows):,} completions scored")
        return rewards
