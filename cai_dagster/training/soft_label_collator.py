"""The labels of pairs beside their tokens, in a batch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

Batch = dict[str, Any]


@dataclass(frozen=True)
class SoftLabelCollator:
    """A collator of TRL, which pads the tokens, with more columns of numbers: a tensor of shape (pairs,) each."""

    collate: Callable[[list[Batch]], Batch]
    columns: tuple[str, ...]

    def __call__(self, examples: list[Batch]) -> Batch:
        """A batch of pairs."""
        labels = {
            column: torch.tensor([example[column] for example in examples], dtype=torch.float32)
            for column in self.columns
        }
        return {**self.collate(examples), **labels}
