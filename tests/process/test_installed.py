"""The package as `pip install` puts it: a wheel in an environment of its own, used from a project folder elsewhere."""

from pathlib import Path

import pytest

from cai_dagster.tables.registry import required_assets
from tests.installed import Installed


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    made = Installed(tmp_path_factory.mktemp("installed"))
    finished = made.cai("init", str(made.project), cwd=made.project.parent)
    assert finished.returncode == 0, finished.stderr
    return made


def test_the_wheel_is_used_and_not_the_checkout(installed: Installed) -> None:
    program = "import cai_dagster.project as p; print(p.PACKAGE, p.PROJECT, sep='\\n')"
    package, project = installed.run("-c", program, cwd=installed.project / "constitutions").stdout.splitlines()
    assert Path(package).is_relative_to(installed.project.parent / "venv")
    assert Path(project) == installed.project


def test_a_new_project_has_files_of_its_own(installed: Installed) -> None:
    files = {str(file.relative_to(installed.project)) for file in installed.project.rglob("*") if file.is_file()}
    assert files >= {
        *("constitutions/v1.yaml", "prompts/red_team.jsonl", "settings.toml", "README.md"),
        *(".env.example", ".gitignore", "workspace.yaml", "dg.toml", "definitions.py"),
    }
    assert not [file for file in installed.project.rglob("*") if file.is_symlink()]
    assert installed.cai("init", str(installed.project)).returncode == 1


def test_a_version_is_materialized_from_the_command_line_and_the_home_knows_its_profile(installed: Installed) -> None:
    ran = installed.cai("run", "--version", "v1", "--profile", "demo", "--skip-preflight")
    assert ran.returncode == 0, ran.stderr
    assert "This run paid for" in ran.stdout
    below = installed.project / "prompts"
    status = installed.cai("status", "--version", "v1", cwd=below)
    assert status.returncode == 0, status.stderr
    assert "reward_model_evaluation" in status.stdout
    assert (installed.project / ".cai" / "profile").read_text() == "demo\n"
    assert (installed.project / ".cai" / "reports" / "v1.html").exists()

    again = installed.cai("run", "--only", "prompts", "--only", "constitution")  # of the profile of the home
    assert again.returncode == 0, again.stderr
    assert "This run paid for 0 model calls" in again.stdout


def test_a_backfill_makes_each_version_and_its_comparison_with_its_base(installed: Installed) -> None:
    (installed.project / "constitutions" / "broken.yaml").write_text("principles: []\n")
    filled = installed.cai("backfill", "v1", "v2", "--profile", "demo", "--skip-preflight")
    assert filled.returncode == 0, filled.stderr
    for page in ("v1.html", "v2.html", "comparisons/v1-v2.html"):
        assert (installed.project / ".cai" / "reports" / page).exists()
    failed = installed.cai("backfill", "broken", "v2", "--profile", "demo", "--skip-preflight")
    assert failed.returncode == 1
    assert "failed: broken; `cai status --version broken` says why" in failed.stderr
    said = installed.cai("status", "--version", "broken").stdout
    assert "✗ failed" in said
    assert "constitution: the run failed: " in said
    assert "principles" in said.split("the run failed: ")[1]


def test_up_to_an_asset_and_unknown_assets(installed: Installed) -> None:
    upstream = installed.cai("run", "--version", "v2", "--to", "sft_dataset", "--profile", "demo")
    assert upstream.returncode == 0, upstream.stderr
    shared = installed.cai("run", "--only", "prompts", "--profile", "demo")
    assert shared.returncode == 0, shared.stderr
    unknown = installed.cai("run", "--to", "sft_datasets")
    assert unknown.returncode == 1
    assert "there is no asset 'sft_datasets'; did you mean sft_dataset" in unknown.stderr
    assert installed.cai("run", "--to", "prompts", "--only", "prompts").returncode == 2


@pytest.mark.parametrize("program", ["dagster", "dg"])
def test_dagsters_own_programs_find_the_graph_in_the_project_folder(installed: Installed, program: str) -> None:
    listed = {
        "dagster": ("-m", "dagster", "asset", "list", "-w", "workspace.yaml"),
        "dg": ("-c", "from dagster_dg_cli.cli import main; main()", "list", "defs", "--json"),
    }[program]
    if program == "dagster":  # `asset list` takes no workspace
        listed = ("-m", "dagster", "definitions", "validate", "-w", "workspace.yaml")
    finished = installed.run(*listed, cwd=installed.project)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    if program == "dg":
        assert set(required_assets()) <= set(finished.stdout.replace('"', " ").split())


def test_outside_of_a_project_the_way_to_one_is_named(installed: Installed, tmp_path: Path) -> None:
    said = installed.cai("status", cwd=tmp_path)
    assert said.returncode == 1
    assert "no project in" in said.stderr
    assert "`cai init FOLDER` makes one" in said.stderr
