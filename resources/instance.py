"""A Dagster instance as it has to be. Run as a program: commands and doctor know none of Dagster's code.

`python -m resources.instance` prepares a new one, `… places N` gives the pool of GPUs N places, `… places` prints them.
"""

import sys
from collections.abc import Sequence

import dagster as dg

POOL = "gpu"
_EVENTS = (dg.DagsterEventType.RUN_FAILURE, dg.DagsterEventType.RUN_SUCCESS)


def main(arguments: Sequence[str]) -> None:
    """What the arguments say, to the instance in DAGSTER_HOME."""
    with dg.DagsterInstance.get() as instance:
        match arguments:
            case ["places", number]:
                instance.event_log_storage.set_concurrency_slots(POOL, int(number))
            case ["places"]:
                limits = {one.name: one.limit for one in instance.event_log_storage.get_pool_limits()}
                sys.stdout.write(f"{limits.get(POOL, 1)}\n")
            case _:
                prepare(instance)


def prepare(instance: dg.DagsterInstance) -> None:
    """One run at a time holds the accelerator, unless it is said how many may.

    And say from which event on the daemon looks: a new instance has missed none.
    """
    if POOL not in {one.name for one in instance.event_log_storage.get_pool_limits()}:
        instance.event_log_storage.set_concurrency_slots(POOL, 1)
    latest = str(instance.event_log_storage.get_maximum_record_id() or 0)
    cursors = {f"EVENT_LOG_CONSUMER_CURSOR-{event.value}": latest for event in _EVENTS}
    if instance.daemon_cursor_storage is not None:
        known = instance.daemon_cursor_storage.get_cursor_values(set(cursors))
        instance.daemon_cursor_storage.set_cursor_values({**cursors, **known})


if __name__ == "__main__":
    main(sys.argv[1:])
