"""A real PostgreSQL server for a test session, of the programs that Debian's package `postgresql` installs."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


def is_installed() -> bool:
    """Whether there is a server to start, and its driver."""
    import importlib.util

    return bool(PROGRAMS) and importlib.util.find_spec("psycopg2") is not None


class PostgreSqlServer:
    """One server with databases of its own, in a folder of its own."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
        self._as = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []  # it refuses to run as root
        if self._as:
            user = pwd.getpwnam("postgres")
            os.chown(self._folder, user.pw_uid, user.pw_gid)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._databases = 0
        self._run("initdb", "-D", str(self._data), "-U", "cai", "-A", "trust", "--no-sync")
        self.start()

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def start(self) -> None:
        """Start it; returns when it answers."""
        options = f"-h 127.0.0.1 -p {self._port} -k {self._folder} -c fsync=off"
        self._run("pg_ctl", "-D", str(self._data), "-o", options, "-l", str(self._folder / "log"), "-w", "start")

    def stop(self) -> None:
        """Stop it at once: connections break."""
        self._run("pg_ctl", "-D", str(self._data), "-m", "immediate", "-w", "stop")

    def remove(self) -> None:
        """Stop it, and delete what it wrote."""
        self.stop()
        shutil.rmtree(self._folder)

    def new_database(self) -> str:
        """The URL of an empty database."""
        self._databases += 1
        name = f"ledger{self._databases}"
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self._port), "-U", "cai", name)
        return f"postgresql://cai@127.0.0.1:{self._port}/{name}"

    def restored(self, url: str) -> str:
        """The URL of a new database with what `pg_dump` wrote of another."""
        new = self.new_database()
        file = self._folder / "dump"
        self._run("pg_dump", "--format=custom", "--file", str(file), url)
        self._run("pg_restore", "--dbname", new, str(file))
        return new

    def bytes_on_disk(self) -> bytes:
        """All that its tables' files hold, once what it remembers is written to them."""
        self._run("psql", "-h", "127.0.0.1", "-p", str(self._port), "-U", "cai", "-c", "CHECKPOINT", "postgres")
        return b"".join(file.read_bytes() for file in (self._data / "base").rglob("*") if file.is_file())

    def _run(self, program: str, *arguments: str) -> None:
        command: Sequence[str] = [*self._as, str(PROGRAMS[-1] / program), *arguments]
        done = subprocess.run(
            command, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False
        )
        assert done.returncode == 0, f"{program}: {done.stderr.decode()}"
