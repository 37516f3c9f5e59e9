r"""Transcripts as hh-rlhf writes them, `\n\nHuman: …\n\nAssistant: …` (Bai et al. 2022, arXiv:2204.05862).

The one rule for where a turn begins: readers split by it, and the writer refuses what they would split elsewhere.
"""

import re

SPEAKERS = {"user": "Human", "assistant": "Assistant"}
_ROLES = {speaker: role for role, speaker in SPEAKERS.items()}
# A turn begins after an empty line. Both kinds of line ends are in use, and indented turns are too.
_SPEAKER = re.compile(r"(?:\A\s*|(?:\r?\n){2}[^\S\r\n]*)(Human|Assistant):")


class NoTranscriptError(ValueError):
    """A text is no transcript, or turns cannot be written as one; the message says why."""


def begins_with_a_speaker(text: str) -> bool:
    """Whether a text begins as every transcript does."""
    return _SPEAKER.match(text) is not None


def is_transcript(text: str) -> bool:
    """Whether a text that may be anything is a transcript: one that only begins with `Human:` may be a question."""
    match = _SPEAKER.match(text)
    return match is not None and ("\n\n" in match[0].replace("\r", "") or len(_SPEAKER.findall(text)) > 1)


def transcript_turns(text: str) -> list[tuple[str, str]]:
    """Role and text of each turn, without the space after the colon; an empty answer at the end stays a turn.

    Raises NoTranscriptError for a text that does not begin with a speaker.
    """
    before, *rest = _SPEAKER.split(text)
    if before.strip() or not rest:
        raise NoTranscriptError("the text is no transcript: it does not begin with Human: or Assistant:")
    turns = zip(rest[::2], rest[1::2], strict=True)
    return [(_ROLES[speaker], content.removeprefix(" ")) for speaker, content in turns]


def transcript(turns: list[tuple[str, str]]) -> str:
    """The turns as a transcript.

    Raises NoTranscriptError where a reader would not get them back: there is no escape for a speaker inside a text.
    """
    for role, _ in turns:
        if role not in SPEAKERS:
            raise NoTranscriptError(f"hh-rlhf has no {role} turn")
    text = "".join(f"\n\n{SPEAKERS[role]}: {content}" for role, content in turns)
    for written, read in zip(turns, transcript_turns(text), strict=False):
        if read != written:
            inside = _SPEAKER.search(f"\n\n{written[1]}", 1)
            why = f"{inside[1]}: after an empty line" if inside else "a carriage return at an end"
            raise NoTranscriptError(f"a turn of the {written[0]} has {why}, which no reader of hh-rlhf reads back")
    return text
