"""What the errors of a database server say: that it is away for a while, or that it refuses, now and always."""

_AWAY = (
    "connection refused",
    "server closed the connection",
    "terminating connection",
    "no connection to the server",
    "database system is",  # starting up, shutting down
    'failed to execute query "rollback',  # all that DuckLake says of a COMMIT whose server has gone
    "connection to server",
)
_REFUSES = (
    "authentication failed",
    "no password supplied",
    "does not exist",
    "no pg_hba.conf entry",
    "cannot rollback - no transaction is active",  # SQLite's: it has rolled back by itself, as on a full disk
)


def is_away(error: BaseException) -> bool:
    """Whether the server may answer if it is asked again."""
    text = str(error).lower()
    return any(words in text for words in _AWAY) and not refuses(error)


def refuses(error: BaseException) -> bool:
    """Whether the server answers, and will say the same again."""
    return any(words in str(error).lower() for words in _REFUSES)
