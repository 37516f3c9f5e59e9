"""How a server is asked for the log probabilities of label tokens, and which number in its answer is a label's.

It knows neither the network nor what the labels mean.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

_BY_ID = "token_id:"  # how vLLM writes a token when it is asked for ids

TopLogprobs = Mapping[str, float | None]


@dataclass(frozen=True)
class LabelQuery:
    """One way to ask. Servers differ in what they take; the exact one gives a number for every label.

    `extensions`: with vLLM's own fields beyond OpenAI's protocol. `exact`: with `logprob_token_ids`; otherwise a label
    outside the `top` tokens is not returned.
    """

    top: int
    extensions: bool
    exact: bool = False

    def fields(self, labels: Sequence[int]) -> dict[str, Any]:
        """What a request carries besides the prompt."""
        fields: dict[str, Any] = {"logprobs": self.top}
        if self.extensions:
            fields["return_tokens_as_token_ids"] = True
        if self.exact:
            fields["logprob_token_ids"] = list(labels)
        return fields


# From the best to the least; OpenAI's own limit is 5, vLLM's is 20 unless it was started with --max-logprobs.
LABEL_QUERIES = (
    LabelQuery(1, extensions=True, exact=True),
    *(LabelQuery(top, extensions) for top in (20, 10, 5, 3, 2, 1) for extensions in (True, False)),
)


class TokenNames:
    """Which token a server's answer means: by id where it gives ids, else by a string that is no other token's."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def read(self, returned: TopLogprobs, label: int) -> float | None:
        """The label's log probability; None where the server did not return it."""
        if any(name.startswith(_BY_ID) for name in returned):
            return returned.get(f"{_BY_ID}{label}")
        text, piece = self._texts[label], str(self._tokenizer.convert_ids_to_tokens(label))
        if text in returned and self._tokens_with_text[text] == 1:
            return returned[text]
        return returned.get(piece) if self._tokens_with_text[piece] == 0 else None

    @cached_property
    def _texts(self) -> list[str]:
        return [str(self._tokenizer.decode([token_id])) for token_id in range(len(self._tokenizer))]

    @cached_property
    def _tokens_with_text(self) -> Counter[str]:
        return Counter(self._texts)
