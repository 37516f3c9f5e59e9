"""How a model's chat template is used where models differ: system prompts, dates, thoughts.

A model that is trained here keeps them in its folder, so that it is used as it was trained.
"""

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

FILE = "chat_options.json"
ANY_DATE = "2026-01-01"
DATE_OF_THE_DAY = "strftime_now"  # what templates call to get it


def template_text(folder: Path) -> str:
    """The chat template in a model's folder, or what it is written in; empty where there is none."""
    files = [folder / "chat_template.jinja", folder / "tokenizer_config.json"]
    return "".join(file.read_text(encoding="utf-8") for file in files if file.exists())


class SystemPrompt(StrEnum):
    """Where the text of a system prompt goes."""

    as_message = "as_message"
    in_first_user_turn = "in_first_user_turn"


class Thinking(StrEnum):
    """Whether a model that can think first does."""

    off = "off"
    on = "on"


@dataclass(frozen=True)
class ChatOptions:
    """How a chat template is used.

    `template_date` is the date of the day for a template that shows one. `reasoning_marks` are the texts around a
    thought; those of the template's family where there are none.
    """

    system_prompt: SystemPrompt = SystemPrompt.as_message
    template_date: str = ANY_DATE
    thinking: Thinking = Thinking.off
    reasoning_marks: tuple[str, ...] = ()
    trust_remote_code: bool = False

    def save(self, folder: Path) -> None:
        """Note in a model's folder how its template is used, where that is not as usual."""
        kept = {name: value for name, value in asdict(self).items() if name != "trust_remote_code"}
        changed = {name: value for name, value in kept.items() if value != getattr(USUAL, name)}
        if changed:
            (folder / FILE).write_text(json.dumps(changed), encoding="utf-8")

    def identity(self, template: str) -> str:
        """What tells prompts rendered with these options from those of the usual ones; empty where nothing does."""
        parts = [f"/{self.system_prompt.value}"] if self.system_prompt != USUAL.system_prompt else []
        parts += [f"/date-{self.template_date}"] if DATE_OF_THE_DAY in template else []
        parts += [f"/thinking-{self.thinking.value}"] if self.thinking != USUAL.thinking else []
        parts += [f"/{' '.join(self.reasoning_marks)}"] if self.reasoning_marks else []
        return "".join(parts)

    @staticmethod
    def of(folder: Path, trust_remote_code: bool = False) -> "ChatOptions":
        """Those noted in a model's folder; the usual ones where there are none. Trust is never read from there."""
        file = folder / FILE
        noted: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        return ChatOptions(
            SystemPrompt(noted.get("system_prompt", USUAL.system_prompt)),
            noted.get("template_date", USUAL.template_date),
            Thinking(noted.get("thinking", USUAL.thinking)),
            tuple(noted.get("reasoning_marks", USUAL.reasoning_marks)),
            trust_remote_code,
        )


USUAL = ChatOptions()
