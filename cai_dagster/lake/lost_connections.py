"""Waiting for a database server that is started again, by whatever may be asked twice."""

import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import tenacity
from sqlalchemy.exc import DBAPIError, OperationalError

from cai_dagster.lake.server_errors import refuses

PATIENCE_SECONDS = 90.0

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def waits_for_the_server(work: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Decorator of what may be done again: where the connection is lost, it is, for up to PATIENCE_SECONDS."""
    return tenacity.retry(
        retry=tenacity.retry_if_exception(_is_lost),
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=3),
        stop=tenacity.stop_after_delay(PATIENCE_SECONDS),
        before_sleep=tenacity.before_sleep_log(logging.getLogger(__name__), logging.WARNING),
        reraise=True,
    )(work)


def _is_lost(error: BaseException) -> bool:
    """Whether a server closed the connection, or does not answer. A file has no server."""
    if not isinstance(error, DBAPIError) or not type(error.orig).__module__.startswith("psycopg2"):
        return False
    return (isinstance(error, OperationalError) or error.connection_invalidated) and not refuses(error)
