"""`cai setup`: prepare CAI_HOME."""

import os
import time
from typing import Annotated

import typer

from cai_dagster.commands.dagster_process import QUIET, prepare_instance, run_program
from cai_dagster.commands.options import Profile
from cai_dagster.commands.output import console
from cai_dagster.home import Home
from cai_dagster.profiles import remember_profile

GpuHosts = Annotated[
    int | None,
    typer.Option(
        "--gpu-hosts", min=1, help="Hosts with GPUs that share this Dagster instance: so many runs load models at once."
    ),
]


def setup(profile: Profile = None, gpu_hosts: GpuHosts = None) -> None:
    """Prepare CAI_HOME: the Dagster instance and the offline model.

    With --profile, the home is one of that profile from then on.
    """
    from cai_dagster.models.offline import prepare_offline_model

    os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})
    home = Home.from_environment()
    if profile:
        remember_profile(home, profile)
    prepare_instance(home)
    if gpu_hosts:
        run_program("resources.instance", "places", str(gpu_hosts))
    started = time.monotonic()
    folder = prepare_offline_model(home)
    console().print(f"offline model: {folder} ({time.monotonic() - started:.0f} s)")
