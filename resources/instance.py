"""A Dagster instance as it has to be when it is new. Run as a program: commands know none of Dagster's code."""

import dagster as dg

PLACES = {"gpu": 1}  # one run at a time holds the accelerator
_EVENTS = (dg.DagsterEventType.RUN_FAILURE, dg.DagsterEventType.RUN_SUCCESS)


def prepare() -> None:
    """Set the places of the pools, and say from which event on the daemon looks: a new instance has missed none."""
    with dg.DagsterInstance.get() as instance:
        for pool, places in PLACES.items():
            instance.event_log_storage.set_concurrency_slots(pool, places)
        latest = str(instance.event_log_storage.get_maximum_record_id() or 0)
        cursors = {f"EVENT_LOG_CONSUMER_CURSOR-{event.value}": latest for event in _EVENTS}
        if instance.daemon_cursor_storage is not None:
            instance.daemon_cursor_storage.set_cursor_values(cursors)


if __name__ == "__main__":
    prepare()
