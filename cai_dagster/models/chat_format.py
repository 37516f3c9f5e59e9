"""From messages to token ids, such that the text of a message is never anything but text.

A chat template marks turns with control tokens. Rendering a dialogue to one string and tokenizing that would let a
prompt that contains `<|im_start|>` open a turn of its own. Here the template is rendered with placeholders, control
tokens are looked for in the template's own text only, and everything between them is tokenized by a tokenizer that
has no control tokens. For texts without control tokens the ids are those of `apply_chat_template` (but for the white
space around a text, which some templates trim and this never does).

A base model without a chat template gets the paper's `Human:` / `Assistant:` format (Bai et al. 2022, appendix).
It knows neither engines nor training.
"""

import json
import logging
import re
from collections.abc import Sequence
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from cai_dagster.errors import MendableError, RowError
from cai_dagster.models.chat_options import DATE_OF_THE_DAY, ChatOptions, SystemPrompt, Thinking
from cai_dagster.models.library_environment import keep_to_this_machine
from cai_dagster.models.messages import Message, Messages
from cai_dagster.models.reasoning import FAMILIES, ReasoningMarks
from cai_dagster.models.text_tokens import TextTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMAT_VERSION = 1  # part of every model id: change it when the same messages give other token ids
_log = logging.getLogger(__name__)
_THINKING_SWITCHES = ("enable_thinking", "thinking")  # what templates call theirs
_TURN_MARK = re.compile(r"\n\n(Human|Assistant):")
_PLACEHOLDER = "\ue000{}\ue001"  # private-use characters: no template contains them, no template trims them


class ChatFormatError(MendableError):
    """The model's tokenizer or template cannot be used; the message says why."""


class ContextTooLongError(RowError):
    """The prompt and the tokens asked for do not fit the model's context."""

    code = "context_too_long"


def fitting(token_ids: list[int], max_tokens: int, max_model_len: int) -> list[int]:
    """The prompt's token ids. Raises ContextTooLongError when they and `max_tokens` new ones exceed the context."""
    if len(token_ids) + max_tokens > max_model_len:
        raise ContextTooLongError(
            f"{len(token_ids)} prompt tokens and up to {max_tokens} new ones exceed the context of "
            f"{max_model_len} (max_model_len)"
        )
    return token_ids


# What these names mean to AutoTokenizer. Importing that takes seconds, and torch, which a plan does not need.
_GENERAL_TOKENIZERS = ("TokenizersBackend", "PreTrainedTokenizerFast")


def _tokenizer(folder: Path, trust_remote_code: bool) -> Any:
    keep_to_this_machine()
    try:
        config: dict[str, Any] = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = {}
    general = config.get("tokenizer_class") in _GENERAL_TOKENIZERS and "auto_map" not in config
    if general and (folder / "tokenizer.json").is_file():
        from transformers.tokenization_utils_tokenizers import TokenizersBackend

        tokenizers: Any = TokenizersBackend
        return tokenizers.from_pretrained(str(folder))
    from transformers import AutoTokenizer

    tokenizers = AutoTokenizer
    return tokenizers.from_pretrained(str(folder), trust_remote_code=trust_remote_code)


class ChatFormat:
    """The tokenizer and template of one model folder.

    Raises ChatFormatError where the template cannot show every dialogue, naming the setting that may help.
    """

    def __init__(self, folder: Path, options: ChatOptions | None = None) -> None:
        self._folder = folder
        self.options = ChatOptions.of(folder) if options is None else options
        loaded = _tokenizer(folder, self.options.trust_remote_code)
        self.tokenizer = cast("PreTrainedTokenizerBase", loaded)
        if not hasattr(self.tokenizer, "backend_tokenizer"):
            raise ChatFormatError(f"{folder}: only tokenizers with a tokenizer.json are supported")
        template = cast("str | None", loaded.chat_template) or ""
        self._has_template = bool(template)
        if DATE_OF_THE_DAY in template:
            _log.info(
                "%s: its template shows a date; it is given %s (template_date)", folder, self.options.template_date
            )
        self._around_turns: dict[tuple[tuple[str, ...], bool, bool], list[list[int | str]]] = {}
        self._marks = self._marks_of(template)
        emitted = self._emitted_around_turns() if template else ""
        self._control: dict[str, int] = {}
        patterns: list[str] = []
        for token_id, token in self.tokenizer.added_tokens_decoder.items():
            if token.special or (token.content in emitted and _is_markup(token.content)):
                self._control[token.content] = token_id
                before, after = r"\s*" * token.lstrip, r"\s*" * token.rstrip
                patterns.append(f"{before}({re.escape(token.content)}){after}")
        self._control_pattern = re.compile("|".join(sorted(patterns, key=len, reverse=True)) or r"(?!)")
        self._text = TextTokenizer(loaded.backend_tokenizer.to_str(), self._control)

    @property
    def stop_strings(self) -> list[str]:
        """Where a base model's answer ends: at the next turn. A chat model ends its turn with a token."""
        return [] if self._has_template else ["\n\nHuman:", "\n\nAssistant:"]

    @property
    def keeps_special_tokens(self) -> bool:
        """Whether an engine has to return special tokens as text: the marks of a thought are some."""
        special = [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        return self._marks is not None and self._is_thinking and any(token in self._marks.close for token in special)

    @property
    def _is_thinking(self) -> bool:
        return self._marks is not None and self.options.thinking == Thinking.on

    def answer(self, text: str) -> str:
        """What a model said as it is kept: with the mark before its thought, also where the prompt had that already.

        Some models have no such mark, and only end their thought with one.
        """
        if self._marks is None or not self._is_thinking or text.lstrip().startswith(self._marks.open):
            return text
        return self._marks.open + text if self._opens_thought or self._marks.close in text else text

    def prompt_ids(self, messages: Messages, prefill: str = "") -> list[int]:
        """The dialogue, the opening of the assistant's next turn, and the first words of that turn."""
        # Words are put into the model's mouth where its answer begins: after a thought, and there is none.
        ids, end = self._encode(self._parts(messages, open_turn=True, thinking=False if prefill else None))
        return ids + self._text.ids(end + self._said_first(prefill), at_start=not ids)

    def dialogue_ids(self, messages: Messages) -> list[int]:
        """The whole dialogue, closed; as many as a training row has."""
        ids, end = self._encode(self._parts(messages, open_turn=False))
        return ids + self._text.ids(end, at_start=not ids)

    def completion_start(self, messages: Messages) -> int:
        """Index in `dialogue_ids` of the first token of the last message's text."""
        before = self.prompt_ids(messages[:-1])
        return _common_length(before, self.dialogue_ids(messages))

    def choice_ids(self, messages: Messages, prefill: str, choices: tuple[str, ...]) -> tuple[list[int], list[int]]:
        """Prompt ids and, for each choice, the one token that continues them.

        Prefill and choice are tokenized together: "A", " A" and "(A" are different tokens, and the wrong one gives
        credible noise. Raises ChatFormatError when the choices do not differ in exactly one token.
        """
        before, end = self._encode(self._parts(messages, open_turn=True, thinking=False))
        ends = [self._text.ids(end + self._said_first(prefill + choice), at_start=not before) for choice in choices]
        start = min(_common_length(ends[0], other) for other in ends[1:])
        labels = [ids[start:] for ids in ends]
        if any(len(label) != 1 for label in labels) or len({label[0] for label in labels}) != len(choices):
            raise ChatFormatError(
                f"this tokenizer does not tell the choices {choices} apart in one token after {prefill!r}: {labels}"
            )
        return before + ends[0][:start], [label[0] for label in labels]

    def tells_apart(self, prefill: str, choices: tuple[str, ...]) -> bool:
        """Whether `choice_ids` has a token for each of the choices; the dialogue before the prefill does not matter."""
        try:
            self.choice_ids((Message("user", "?"),), prefill, choices)
        except ChatFormatError:
            return False
        return True

    def _said_first(self, prefill: str) -> str:
        """The first words of an answer; those of a base model come after a space."""
        return prefill if self._has_template or not prefill else " " + prefill.removeprefix(" ")

    def _parts(self, messages: Messages, open_turn: bool, thinking: bool | None = None) -> list[int | str]:
        """The dialogue as control tokens and, between them, texts."""
        if not self._has_template:
            return self._paper_parts(messages, open_turn)
        if self.options.system_prompt == SystemPrompt.in_first_user_turn:
            messages = _with_system_in_first_turn(messages)
        thinks = self._is_thinking if thinking is None else thinking
        shape = (tuple(message.role for message in messages), open_turn, thinks)
        around = self._around_turns.get(shape)
        if around is None:
            around = self._around_turns[shape] = [self._split(text) for text in self._layout(*shape)]
        parts = around[0].copy()
        for message, after in zip(messages, around[1:], strict=True):
            parts.append(message.content)
            parts += after
        return parts

    def _split(self, text: str) -> list[int | str]:
        """A text of the template as control tokens and what stands between them."""
        parts: list[int | str] = []
        position = 0
        for match in self._control_pattern.finditer(text):
            parts += [text[position : match.start()], self._control[match.group(match.lastindex or 0)]]
            position = match.end()
        return [*parts, text[position:]]

    def _layout(self, roles: tuple[str, ...], open_turn: bool, thinking: bool) -> list[str]:
        """The template's own text before, between and after the turns; it depends on nothing else."""
        parts: list[str] = re.split("\ue000(\\d+)\ue001", self._render(roles, open_turn, thinking))
        seen = [int(number) for number in parts[1::2]]
        if seen != list(range(len(roles))):
            shown = ", ".join(str(index + 1) for index in seen) or "none"
            raise ChatFormatError(f"of the turns {', '.join(roles)} the chat template shows {shown}, in this order")
        return parts[::2]

    def _render(self, roles: Sequence[str], open_turn: bool, thinking: bool) -> str:
        from jinja2 import TemplateError

        turns = [{"role": role, "content": _PLACEHOLDER.format(index)} for index, role in enumerate(roles)]
        tokenizer: Any = self.tokenizer
        day = date.fromisoformat(self.options.template_date)
        try:
            rendered: str = tokenizer.apply_chat_template(
                turns,
                tokenize=False,
                add_generation_prompt=open_turn,
                strftime_now=day.strftime,
                **dict.fromkeys(_THINKING_SWITCHES, thinking),
            )
        except TemplateError as error:
            raise ChatFormatError(f"the chat template refuses the turns {', '.join(roles)}: {error}") from error
        if not open_turn or thinking or self._marks is None:
            return rendered
        before, place, opened = rendered.rpartition("\ue001")
        return before + place + _without_thought(opened, self._marks)

    @cached_property
    def _opens_thought(self) -> bool:
        """Whether the prompt of an answer that thinks first ends inside the thought."""
        opened = self._render(("user",), open_turn=True, thinking=True).rpartition("\ue001")[2]
        return self._marks is not None and opened.rstrip().endswith(self._marks.open)

    def _marks_of(self, template: str) -> ReasoningMarks | None:
        """The marks of a thought: those of the options, or of the family that the template shows."""
        if self.options.reasoning_marks:
            return ReasoningMarks(*self.options.reasoning_marks)
        known = dict.fromkeys(FAMILIES.values())
        return next((marks for marks in known if marks.open in template or marks.close in template), None)

    def _emitted_around_turns(self) -> str:
        """What the template itself says in dialogues of every shape; all of them have to be shown whole.

        Raises ChatFormatError for a template that refuses one or shows its turns in another order, with what to do.
        """
        turns = ("user", "assistant") * 2
        in_turn = self.options.system_prompt == SystemPrompt.in_first_user_turn
        emitted = ""
        for before in ((), () if in_turn else ("system",)):
            for shape in (turns[:count] for count in range(1, 5)):
                try:
                    for thinking in {False, self._is_thinking}:
                        emitted += "".join(self._layout((*before, *shape), shape[-1] == "user", thinking))
                except ChatFormatError as error:
                    advice = (
                        '. Set system_prompt = "in_first_user_turn" for this model, and the text of a system prompt '
                        "is put before that of the user's first turn"
                    )
                    raise ChatFormatError(f"{self._folder}: {error}{advice if before else ''}") from error
        return emitted

    def _paper_parts(self, messages: Messages, open_turn: bool) -> list[int | str]:
        parts = self._split(str(self.tokenizer.bos_token or ""))
        for message in messages:
            mark = {"user": "\n\nHuman: ", "assistant": "\n\nAssistant: ", "system": ""}[message.role]
            # With no control tokens the mark itself is text: one inside a message gets a space, so it opens no turn.
            text = _TURN_MARK.sub(r"\n\n \1:", message.content)
            text = (
                text.removeprefix(" ") if mark else text
            )  # a base model's answer begins with the space after the mark
            parts += [mark, text]
        return [*parts, *self._split("\n\nAssistant:" if open_turn else str(self.tokenizer.eos_token or ""))]

    def _encode(self, parts: list[int | str]) -> tuple[list[int], str]:
        """Token ids up to the last text, and that text."""
        ids: list[int] = []
        text = ""
        for part in parts:
            if isinstance(part, str):
                text += part
                continue
            ids += self._text.ids(text, at_start=not ids)
            ids.append(part)
            text = ""
        return ids, text


def _is_markup(token: str) -> bool:
    """Whether a token that is not special is one of a template's marks, and not a word or white space."""
    return not token.isspace() and not token.strip().isalnum()


def _without_thought(opened: str, marks: ReasoningMarks) -> str:
    """The opening of an answer (what the template says after the last turn) with an empty thought in it, and closed."""
    if marks.close in opened:
        return opened
    if opened.rstrip().endswith(marks.open):
        return f"{opened.rstrip()}\n\n{marks.close}\n\n"
    if marks.close.startswith("<|end|>"):  # gpt-oss: an answer without a thought is a message of its last channel
        return opened + marks.close.removeprefix("<|end|><|start|>assistant")
    return f"{opened}{marks.open}\n\n{marks.close}\n\n"


def _with_system_in_first_turn(messages: Messages) -> Messages:
    if len(messages) < 2 or messages[0].role != "system":
        return messages
    first = Message(messages[1].role, f"{messages[0].content}\n\n{messages[1].content}")
    return (first, *messages[2:])


def _common_length(first: list[int], second: list[int]) -> int:
    length = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        length += 1
    return length
