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
_RAISED = re.compile(r"^(?:\w+\.)*(?P<error>\w*(?:Error|Exception)): (?P<said>\S.*)$")


def message_of(line: str) -> str:
    """A line of vLLM's log without the name of the process, level, time and place."""
    matched = _PREFIX.match(line.rstrip())
    return matched["text"] if matched else line.rstrip()


def reason_in(log: str) -> str | None:
    """What vLLM itself gives as the reason of its end: the last exception that its engine's processes report.

    The process that waits for them only says that they failed.
    """
    raised: dict[bool, str] = {}
    for line in log.splitlines():
        prefix = _PREFIX.match(line)
        if prefix is None:
            continue
        matched = _RAISED.match(prefix["text"])
        if matched and "See root cause above" not in matched["said"]:
            raised[prefix["process"] is not None] = f"{matched['error']}: {matched['said']}"
    return raised.get(True) or raised.get(False)
