"""What vLLM says of its start: the phases that a person wants to know, and the reason of a failure."""

import re

TELL_SECONDS = 0.5
PHASES = re.compile(
    r"Loading weights took|Model loading took|KV cache size|Maximum concurrency|torch\.compile|Capturing|"
    r"Graph capturing finished|init engine"
)
_PREFIX = re.compile(
    r"^(?:\x1b\[[\d;]*m)*(?P<process>\([^)]*\) )?(?:\x1b\[[\d;]*m)*"
    r"(?:[A-Z]+ \d\d-\d\d \d\d:\d\d:\d\d (?:\[[^\]]*\])+ ?)?(?P<text>.*?)(?:\x1b\[[\d;]*m)*$"
)
_POINTS_ELSEWHERE = re.compile(r"root cause", re.IGNORECASE)  # "See root cause above", and the like
_RAISED = re.compile(r"^(?:\w+\.)*(?P<error>\w*(?:Error|Exception)): (?P<said>\S.*)$")


def message_of(line: str) -> str:
    """A line of vLLM's log without the name of the process, level, time and place."""
    matched = _PREFIX.match(line.rstrip())
    return matched["text"] if matched else line.rstrip()


def reason_of(said: str, log: str) -> str:
    """Why vLLM has ended: what the process that waits for its engine said, unless that only points to its log.

    Then it is the last exception in the log that the engine's processes report.
    """
    if said and not _POINTS_ELSEWHERE.search(said):
        return said
    raised: dict[bool, str] = {}
    for line in log.splitlines():
        prefix = _PREFIX.match(line)
        if prefix is None:
            continue
        matched = _RAISED.match(prefix["text"])
        if matched and not _POINTS_ELSEWHERE.search(matched["said"]):
            raised[prefix["process"] is not None] = f"{matched['error']}: {matched['said']}"
    return raised.get(True) or raised.get(False) or said or "no reason in its log"
