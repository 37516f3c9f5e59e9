"""The files in deploy/ say what the program reads, and their instance is that of a home, in PostgreSQL."""

from typing import Any

import yaml

from cai_dagster.commands.reference import ENVIRONMENT
from cai_dagster.project import EXAMPLE_INSTANCE, PROJECT

DEPLOY = PROJECT / "deploy"


def read(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text())


def test_the_shared_instance_differs_from_that_of_a_home_by_its_storage() -> None:
    shared = read("dagster.yaml")
    assert shared.pop("storage") == {"postgres": {"postgres_url": {"env": "DAGSTER_DATABASE"}}}
    assert shared == yaml.safe_load(EXAMPLE_INSTANCE.read_text())


def test_variables_are_those_that_the_program_reads() -> None:
    services = read("docker-compose.yaml")["services"]
    (deployment,) = read("helm-values.yaml")["dagster-user-deployments"]["deployments"]
    given = {
        name for service in ("prepare", "webserver", "daemon", "worker") for name in services[service]["environment"]
    }
    given |= {variable["name"] for variable in deployment["env"]}
    assert {name for name in given if name.startswith(("CAI_", "AWS_ENDPOINT"))} <= set(ENVIRONMENT)


def test_what_the_image_copies_is_there() -> None:
    lines = [line.split() for line in (DEPLOY / "Dockerfile").read_text().splitlines() if line.startswith("COPY ")]
    for _, *sources, _ in lines:
        assert all((PROJECT / source).exists() for source in sources)
    services = read("docker-compose.yaml")["services"]
    mounted = {one.split(":")[0] for service in services.values() for one in service.get("volumes", [])}
    assert all((DEPLOY / one).is_file() for one in mounted if one.startswith("./"))
