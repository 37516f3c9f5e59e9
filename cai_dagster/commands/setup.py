"""`cai setup`: prepare CAI_HOME."""

import os
import time

from cai_dagster.commands.dagster_process import QUIET, prepare_instance
from cai_dagster.commands.output import console
from cai_dagster.home import Home


def setup() -> None:
    """Prepare CAI_HOME: the Dagster instance and the offline model."""
    from cai_dagster.models.offline import prepare_offline_model

    os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})
    home = Home.from_environment()
    prepare_instance(home)
    started = time.monotonic()
    folder = prepare_offline_model(home)
    console().print(f"offline model: {folder} ({time.monotonic() - started:.0f} s)")
