"""How many tokens calls took, and how fast they came: prompts and completions apart, as vLLM counts them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TokenCounts:
    """Tokens of prompts and of completions; `cached` are those of prompts that were in the engine's prefix cache."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0

    def __add__(self, other: "TokenCounts") -> "TokenCounts":
        """Of both together."""
        return TokenCounts(self.prompt + other.prompt, self.completion + other.completion, self.cached + other.cached)

    @property
    def total(self) -> int:
        """Prompts and completions together."""
        return self.prompt + self.completion

    @property
    def cached_share(self) -> float | None:
        """Share of the prompts' tokens that were in the prefix cache; None without prompts."""
        return self.cached / self.prompt if self.prompt else None

    def a_second(self, seconds: float) -> tuple[float, float]:
        """Tokens of prompts and of completions a second; 0 where no time has passed."""
        return (self.prompt / seconds, self.completion / seconds) if seconds else (0.0, 0.0)

    def speed(self, seconds: float) -> str:
        """`1,450 prompt + 210 completion tokens/s, 62 % of prompts cached`."""
        if not self.total or not seconds:
            return "0 tokens/s"
        prompt, completion = self.a_second(seconds)
        cached = f", {self.cached_share:.0%} of prompts cached".replace("%", " %") if self.cached else ""
        return f"{prompt:,.0f} prompt + {completion:,.0f} completion tokens/s{cached}"
