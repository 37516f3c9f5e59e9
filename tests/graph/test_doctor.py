"""A home, an instance and a project broken in each way: the doctor names it, and its remedy mends it."""

import errno
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from typer.testing import CliRunner

from cai_dagster.calls.ledger import open_ledger
from cai_dagster.commands.cli import app
from cai_dagster.home import Home
from cai_dagster.lake.connection import LakeError
from cai_dagster.lake.lake import Lake
from cai_dagster.lake.scratch import LEASE, new_scratch_folder
from cai_dagster.models.offline import NAME
from cai_dagster.models.weights import checkpoint_weights
from cai_dagster.project import EXAMPLE_INSTANCE, PROJECT, SETTINGS_FILE
from cai_dagster.training.checkpoint_folders import folder_of_row
from cai_dagster.upkeep import doctor, integrity
from cai_dagster.upkeep import leftovers as leftover_files
from cai_dagster.upkeep.doctor import examine
from cai_dagster.upkeep.findings import Finding, Level, problem
from cai_dagster.upkeep.integrity import examine_integrity
from cai_dagster.upkeep.leftovers import leftovers, remove_leftovers
from resources.lake import open_lake
from tests.databases import execute
from tests.hostile import HOSTILE
from tests.scripted_graph import WITHOUT_TRAINING, materialize, metadata, pretend_trained, write_prompts
from tests.tiny_models import write_tiny_weights

SMALL: dict[str, Any] = {"sft_dataset": {"min_rows": 1}, "revision_rounds": {"rounds": 1}}
LATER = ["response_pairs", "judgements", "preference_pairs"]
KEY = "ab" * 16
DEAD = 2**22 - 1  # no process has so high an id while nobody asks for it


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home in which nothing is wrong: a graph's tables and ledger, a checkpoint, an offline model, an instance."""
    return make_sound(tmp_path_factory.mktemp("sound") / "home")


def make_sound(root: Path) -> Home:
    """Fill a home, and the store that it shares, if any."""
    home = Home(root.resolve())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAI_HOME", str(home.root))
        materialize(WITHOUT_TRAINING, questions(home.root.parent))
        folder = home.models / "sl_cai_model" / KEY
        pretend_trained(home, folder, key=KEY)
        materialize(LATER, questions(home.root.parent))
    (record,) = open_lake(home).snapshot("sl_cai_model", "v1").frame()["record"]
    (folder / "record.json").write_text(record)
    write_tiny_weights(home.models / "offline" / NAME / "model.safetensors")
    for model in (folder, home.models / "offline" / NAME):
        for name in ("config.json", "tokenizer.json"):
            (model / name).write_text("{}")
    home.dagster.mkdir()
    shutil.copy(EXAMPLE_INSTANCE, home.dagster)
    run(f"DAGSTER_HOME='{home.dagster}' dagster instance concurrency set gpu 1")
    return home


@pytest.fixture
def broken(sound: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A copy of the sound home, to be broken."""
    home = Home((tmp_path / "home").resolve())
    shutil.copytree(sound.root, home.root)
    monkeypatch.setenv("CAI_HOME", str(home.root))
    return home


@pytest.fixture
def emptied(broken: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home with nothing but the ledger of `broken`."""
    home = Home((tmp_path / "emptied").resolve())
    home.root.mkdir()
    run(f"cp '{broken.root}'/ledger.sqlite* '{home.root}'")
    monkeypatch.setenv("CAI_HOME", str(home.root))
    return home


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what the doctor reads of the project."""
    folder = tmp_path / "project"
    shutil.copytree(PROJECT / "constitutions", folder / "constitutions")
    shutil.copytree(PROJECT / "requirements", folder / "requirements")
    shutil.copy(SETTINGS_FILE, folder)
    monkeypatch.setattr(doctor, "PROJECT", folder)
    monkeypatch.setattr(doctor, "SETTINGS_FILE", folder / "settings.toml")
    monkeypatch.setattr(doctor, "CONSTITUTIONS", folder / "constitutions")
    monkeypatch.setattr(doctor, "REQUIREMENTS", folder / "requirements" / "cpu.txt")
    return folder


def run(command: str) -> None:
    """A command as a person types it, in the project folder with its environment active."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(PROJECT)}
    subprocess.run(["bash", "-c", command], check=True, env=environment, cwd=PROJECT, capture_output=True)


def bad(findings: list[Finding]) -> list[Finding]:
    return [
        finding for finding in findings if finding.level != Level.good and finding.topic not in {"disk", "packages"}
    ]


def only(findings: list[Finding], level: Level, *words: str) -> Finding:
    """The one thing that is wrong: of that level, with these words in its text, and with a remedy."""
    (finding,) = bad(findings)
    assert finding.level == level
    assert all(word in finding.text for word in words), finding
    assert finding.remedy
    return finding


def damage(file: Path, place: int = -1) -> None:
    """Another byte in a file: its size and, where it is a local file, its time stay as they were."""
    content = bytearray(file.read_bytes())
    content[place] ^= 0xFF
    stat = file.stat()
    file.write_bytes(bytes(content))
    if not hasattr(file, "fs"):
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def how_to_restore(home: Home) -> str:
    """What the remedy for lost tables says in any case."""
    return "name an empty database in CAI_CATALOG" if home.shared_catalog else "copy ledger.sqlite* there"


def questions(folder: Path) -> dict[str, Any]:
    """The settings of the runs that made the sound home."""
    return {**SMALL, "prompts": write_prompts(folder / "p.jsonl", [f"question {n}" for n in range(12)])}


def tables_of(home: Home, table: str) -> list[Path]:
    return sorted((home.tables / "main" / table).glob("*.parquet"))


def test_a_sound_home_has_no_problem(broken: Home) -> None:
    findings = examine(broken)
    assert bad(findings) == []
    topics = {finding.topic for finding in findings}
    assert topics >= {"python", "packages", "settings", "constitutions", "machine", "disk", "policy", "feedback_model"}
    assert topics >= {"instance", "lake", "ledger", "staging", "checkpoints"}
    assert any("every call" in finding.text for finding in findings)


def test_looking_changes_nothing_that_was_committed(broken: Home) -> None:
    before = {file: file.stat().st_mtime_ns for file in broken.tables.rglob("*")}
    ledger = open_ledger(broken).totals()
    examine(broken)
    assert {file: file.stat().st_mtime_ns for file in broken.tables.rglob("*")} == before
    assert open_ledger(broken).totals() == ledger


def test_an_empty_home_lacks_an_instance_and_the_model(home: Home) -> None:
    wrong = bad(examine(home))
    assert {finding.topic for finding in wrong} == {"instance", "policy", "feedback_model"}
    assert {finding.remedy for finding in wrong} == {"cai setup"}


def test_a_file_of_a_table_that_is_gone(broken: Home) -> None:
    (file,) = tables_of(broken, "revision_rounds")
    file.unlink()
    finding = only(examine_integrity(broken), Level.problem, "files of tables gone", file.name)
    assert how_to_restore(broken) in str(finding.remedy)


def test_tables_are_made_again_of_the_ledger_alone(emptied: Home, tmp_path: Path) -> None:
    again = materialize(WITHOUT_TRAINING, questions(tmp_path))
    assert metadata(again, "revision_rounds")["ledger_misses"] == 0
    assert bad(examine_integrity(emptied)) == []


def test_a_file_of_a_table_that_was_cut(broken: Home) -> None:
    (file,) = tables_of(broken, "revision_rounds")
    file.write_bytes(file.read_bytes()[:-100])
    only(examine_integrity(broken), Level.problem, "another size", file.name)


@pytest.mark.parametrize("column", ["critique", "revision"])
def test_a_file_of_a_table_that_was_damaged_at_the_same_size(broken: Home, column: str) -> None:
    (file,) = tables_of(broken, "revision_rounds")
    assert bad(examine_integrity(broken, full=True)) == []
    with file.open("rb") as content:
        columns: Any = pyarrow.parquet.read_metadata(content).to_dict()["row_groups"][0]["columns"]
    (place,) = [one for one in columns if one["path_in_schema"] == column]
    damage(file, place["dictionary_page_offset"] + place["total_compressed_size"] // 2)
    assert bad(examine_integrity(broken)) == []  # only who reads it all can tell
    finding = only(examine_integrity(broken, full=True), Level.problem, "")
    assert finding.topic == "lake"
    assert how_to_restore(broken) in str(finding.remedy)


def test_a_file_of_an_earlier_snapshot_that_is_gone_is_a_warning(broken: Home, tmp_path: Path) -> None:
    (file,) = tables_of(broken, "prompts")
    materialize(["prompts"], questions(tmp_path))
    file.unlink()
    only(examine_integrity(broken), Level.warning, "earlier snapshots", file.name)


def test_a_file_that_no_snapshot_names_is_removed_when_it_is_an_hour_old(
    broken: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = tables_of(broken, "prompts")
    orphan = named[0].with_name("killed-rows_0.parquet")
    orphan.write_bytes(named[0].read_bytes())
    assert leftovers(broken).orphans == ()
    assert remove_leftovers(broken).orphans == ()
    if broken.tables_are_local:
        os.utime(orphan, (0, 0))  # staged long ago, and moved in just now: a commit may be under way
        assert leftovers(broken).orphans == ()

    monkeypatch.setattr(leftover_files, "ORPHAN_SECONDS", -60)  # clocks of hosts and of the storage differ
    rows = Lake(broken).snapshot("prompts").frame()
    finding = only(examine_integrity(broken), Level.warning, orphan.name)
    assert finding.remedy == "cai doctor --mend"
    result = CliRunner().invoke(app, ["doctor", "--mend"])
    assert "removed 1 files" in result.output
    assert not orphan.exists()
    assert bad(examine_integrity(broken)) == []
    assert Lake(broken).snapshot("prompts").frame().equals(rows)


def test_what_an_ended_process_left_is_removed_and_what_a_living_one_writes_is_not(broken: Home) -> None:
    living = new_scratch_folder(broken.staging)
    dead = broken.staging / "0a"

    def leave() -> None:
        dead.mkdir(parents=True, exist_ok=True)
        (dead / LEASE).touch()

    leave()
    finding = only(examine_integrity(broken), Level.warning, "have ended", dead.name)
    assert str(finding.remedy).startswith("cai doctor --mend")
    leave()  # looking at the lake has swept it
    assert remove_leftovers(broken).scratch == (dead,)
    assert living.exists()


@pytest.mark.parametrize("name", ["catalog", "ledger"])
def test_a_damaged_database(broken: Home, name: str) -> None:
    file: Path = getattr(broken, name)
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    content = bytearray(file.read_bytes())
    content[4_096:12_288] = b"\xff" * 8_192
    file.write_bytes(content)
    only(examine_integrity(broken), Level.problem, str(file), "damaged")


@pytest.mark.parametrize("wrong", ["damaged", "another", "new"])
def test_nothing_is_removed_where_the_catalog_is_not_that_of_the_tables(
    broken: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    match wrong:
        case "damaged":
            for module in (leftover_files, integrity):
                monkeypatch.setattr(module, "examine_catalog", lambda _: [problem("lake", "damaged", "a copy")])
        case "another":
            shutil.copy(broken.ledger, broken.catalog)
        case _:
            other = Home(tmp_path / "other")
            Lake(other).select("SELECT 1", {})
            shutil.copy(other.catalog, broken.catalog)
    monkeypatch.setattr(leftover_files, "ORPHAN_SECONDS", -1)
    before = sorted(broken.tables.rglob("*.parquet"))
    assert remove_leftovers(broken).orphans == ()
    assert sorted(broken.tables.rglob("*.parquet")) == before
    assert any(finding.topic == "lake" and finding.level == Level.problem for finding in examine_integrity(broken))


def test_a_file_that_is_no_catalog_is_never_made_one_beside_tables(broken: Home) -> None:
    shutil.copy(broken.ledger, broken.catalog)
    content = broken.catalog.read_bytes()
    result = CliRunner().invoke(app, ["status"])
    assert isinstance(result.exception, LakeError)
    assert broken.catalog.read_bytes() == content


@pytest.mark.parametrize("command", [["status"], ["trace", "abcd"], ["principle", "crisis-care"]], ids="-".join)
def test_a_catalog_that_is_gone_is_not_called_a_home_without_tables(broken: Home, command: list[str]) -> None:
    broken.catalog.unlink()
    result = CliRunner().invoke(app, command)
    assert isinstance(result.exception, LakeError)
    assert "is gone, but the tables that it described are not" in str(result.exception)


def test_remedies_are_commands_whatever_the_home_is_called(
    sound: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home((tmp_path / """it's "my" $(home) & more""").resolve())
    shutil.copytree(sound.root, home.root)
    monkeypatch.setenv("CAI_HOME", str(home.root))
    (home.dagster / "dagster.yaml").write_text("x: [")
    finding = only(examine(home), Level.problem, "no YAML")
    run(str(finding.remedy))
    assert bad(examine(home)) == []


def test_a_look_that_fails_does_not_hide_the_others(broken: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> list[Finding]:
        raise RecursionError("something odd")

    monkeypatch.setattr(doctor, "examine_instance", fail)
    finding = only(examine(broken), Level.problem, "something odd")
    assert finding.topic == "instance"
    assert any(finding.topic == "lake" for finding in examine(broken))


@pytest.mark.parametrize("name", ["foo-bar", "99999999999999-abc"])
def test_folders_of_other_names_in_staging_are_left_alone(broken: Home, name: str) -> None:
    folder = broken.staging / name
    folder.mkdir(parents=True)
    assert not [finding for finding in bad(examine_integrity(broken)) if finding.level == Level.problem]
    assert remove_leftovers(broken).scratch == ()
    assert folder.exists()


def test_a_catalog_that_is_gone(broken: Home) -> None:
    broken.catalog.unlink()
    only(examine_integrity(broken), Level.problem, "gone")


def test_a_catalog_of_another_version_of_ducklake(broken: Home) -> None:
    execute(broken, "catalog", "UPDATE ducklake_metadata SET value = '99.0' WHERE key = 'version'")
    only(examine_integrity(broken), Level.problem, "Another version of DuckLake")


def test_a_ledger_that_is_gone_is_missed_by_the_rows_it_paid_for(broken: Home, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    saved.mkdir()
    for file in broken.root.glob("ledger.sqlite*"):
        file.rename(saved / file.name)
    wrong = bad(examine_integrity(broken))
    assert {finding.level for finding in wrong} == {Level.problem}
    assert any("initial_responses: the ledger does not have" in finding.text for finding in wrong)
    assert all(str(broken.ledger) in str(finding.remedy) for finding in wrong)
    assert not broken.ledger.exists()
    run(f"cp '{saved}'/* '{broken.root}'")
    assert bad(examine_integrity(broken)) == []


def test_a_home_without_rows_needs_no_ledger(home: Home) -> None:
    home.root.mkdir()
    (finding,) = [finding for finding in examine_integrity(home) if finding.topic == "ledger"]
    assert (finding.level, finding.text) == (Level.good, "none yet: no model call was ever paid for")


def test_a_ledger_that_is_empty(broken: Home) -> None:
    for file in broken.root.glob("ledger.sqlite*"):
        file.unlink()
    broken.ledger.touch()
    finding = only(examine_integrity(broken), Level.problem, "is no ledger")
    assert "copy of it back" in str(finding.remedy)


def test_a_ledger_of_a_later_program(broken: Home) -> None:
    execute(broken, "ledger", "UPDATE ledger_schema SET version = 99")
    only(examine_integrity(broken), Level.problem, "schema version 99")


def test_rows_whose_calls_the_ledger_does_not_have(broken: Home) -> None:
    critiques = "stage LIKE '%critique%'"
    kept = f"CREATE TABLE kept AS SELECT * FROM calls WHERE {critiques}"
    execute(broken, "ledger", kept, f"DELETE FROM calls WHERE {critiques}")
    finding = only(examine_integrity(broken), Level.problem, "revision_rounds", "does not have 12 of the calls")
    assert ("CAI_LEDGER" if broken.shared_ledger else str(broken.ledger)) in str(finding.remedy)
    execute(broken, "ledger", "INSERT INTO calls SELECT * FROM kept")
    assert bad(examine_integrity(broken)) == []


def test_calls_that_are_not_as_they_were_written(broken: Home) -> None:
    altered = "UPDATE calls SET text = text || '.' WHERE stage LIKE '%critique%'"
    execute(broken, "ledger", altered)
    assert bad(examine_integrity(broken)) == []  # only who reads it all can tell
    finding = only(examine_integrity(broken, full=True), Level.problem, "12 calls are not as they were written")
    assert finding.topic == "ledger"


def test_a_checkpoint_without_its_record(broken: Home) -> None:
    folder = broken.models / "reward_model" / KEY
    folder.mkdir(parents=True)
    finding = only(examine_integrity(broken), Level.warning, str(folder), "record.json")
    run(str(finding.remedy).split(" (")[0])
    assert bad(examine_integrity(broken)) == []


@pytest.mark.parametrize("content", ["", "{}", '{"asset": 3', "\x00"])
def test_a_checkpoint_whose_record_cannot_be_read(broken: Home, content: str) -> None:
    (broken.models / "sl_cai_model" / KEY / "record.json").write_text(content)
    only(examine_integrity(broken), Level.problem, "record.json cannot be read")


def test_a_checkpoint_without_weights(broken: Home) -> None:
    (broken.models / "sl_cai_model" / KEY / "model.safetensors").unlink()
    only(examine_integrity(broken), Level.problem, "no weights")


def test_weights_of_a_checkpoint_that_were_cut(broken: Home) -> None:
    file = broken.models / "sl_cai_model" / KEY / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    finding = only(examine_integrity(broken), Level.problem, "not as long as their headers say")
    assert str(finding.remedy).startswith(f"rm -r {file.parent} && cd {PROJECT} && CAI_PROFILE=")
    assert f"DAGSTER_HOME={broken.dagster} dagster asset materialize" in str(finding.remedy)


def test_weights_of_a_checkpoint_that_were_damaged_at_the_same_size(broken: Home) -> None:
    folder = broken.models / "sl_cai_model" / KEY
    checkpoint_weights("sl_cai_model", KEY, folder, broken)  # their hash is known from here on
    assert bad(examine_integrity(broken, full=True)) == []
    damage(folder / "model.safetensors")
    assert bad(examine_integrity(broken)) == []
    only(examine_integrity(broken, full=True), Level.problem, str(folder), "damaged")


def test_a_copy_of_a_home_has_checkpoints_of_its_own(broken: Home, sound: Home) -> None:
    record = open_lake(broken).snapshot("sl_cai_model", "v1").frame().row(0, named=True)
    assert record["path"] == str(sound.models / "sl_cai_model" / KEY)
    own = broken.models / "sl_cai_model" / KEY
    assert folder_of_row(broken, "sl_cai_model", record) == own

    shutil.rmtree(own)
    finding = only(examine_integrity(broken), Level.warning, "outside this home")
    run(str(finding.remedy))
    assert bad(examine_integrity(broken)) == []


def test_a_checkpoint_that_a_table_names_and_that_is_gone(broken: Home, tmp_path: Path) -> None:
    pretend_trained(broken, tmp_path / "gone")
    finding = only(examine_integrity(broken), Level.problem, "sl_cai_model of v1", str(tmp_path / "gone"))
    assert "--select 'key:sl_cai_model' --partition v1" in str(finding.remedy)


def test_a_checkpoint_trained_on_a_snapshot_that_was_expired(broken: Home) -> None:
    record = broken.models / "sl_cai_model" / KEY / "record.json"
    content = json.loads(record.read_text())
    record.write_text(json.dumps({**content, "lake_snapshots": {"sft_dataset": 1}}))
    assert bad(examine_integrity(broken)) == []
    record.write_text(json.dumps({**content, "lake_snapshots": {"sft_dataset": 9_999}}))
    only(examine_integrity(broken), Level.warning, "sft_dataset at 9999")


@pytest.mark.parametrize(
    ("line", "broken_line", "words"),
    [
        ("granularity: run", "granularity: op", "concurrency.pools.granularity is 'op'"),
        ("run_monitoring:\n  enabled: true", "run_monitoring:\n  enabled: false", "run_monitoring.enabled is False"),
        ("  free_slots_after_run_end_seconds: 30\n", "", "free_slots_after_run_end_seconds is None"),
        ("telemetry:", "telemetry: {}\nother:", "telemetry.enabled is None"),
        ("telemetry:", "telemetry: [", "no YAML"),
        ("telemetry:\n", "\x00", "no YAML"),
    ],
)
def test_an_instance_that_is_set_otherwise(broken: Home, line: str, broken_line: str, words: str) -> None:
    file = broken.dagster / "dagster.yaml"
    text = file.read_text()
    assert line in text
    file.write_text(text.replace(line, broken_line))
    (finding,) = bad(examine(broken))
    assert words in finding.text
    run(str(finding.remedy))
    assert bad(examine(broken)) == []


def test_an_instance_file_that_is_a_folder(broken: Home) -> None:
    file = broken.dagster / "dagster.yaml"
    file.unlink()
    file.mkdir()
    finding = only(examine(broken), Level.problem, "no YAML file")
    run(str(finding.remedy))
    assert bad(examine(broken)) == []


def test_an_instance_in_a_database_that_does_not_answer(broken: Home) -> None:
    file = broken.dagster / "dagster.yaml"
    url = "postgresql+psycopg2://nobody@127.0.0.1:1/dagster"
    file.write_text(f"{file.read_text()}storage:\n  postgres:\n    postgres_url: {url}\n")
    assert "127.0.0.1" in only(examine(broken), Level.problem, "does not answer").text


def test_a_pool_with_room_for_two(broken: Home) -> None:
    run(f"DAGSTER_HOME='{broken.dagster}' dagster instance concurrency set gpu 2")
    finding = only(examine(broken), Level.problem, "pool gpu has 2 places")
    run(str(finding.remedy))
    assert bad(examine(broken)) == []


def test_an_instance_that_is_not_there(broken: Home) -> None:
    shutil.rmtree(broken.dagster)
    assert only(examine(broken), Level.problem, "no Dagster instance").remedy == "cai setup"


def test_settings_that_are_not_valid_in_any_profile(broken: Home, project: Path) -> None:
    file = project / "settings.toml"
    file.write_text(file.read_text() + '\n[mine.prompts]\nsft_share = 3\ncolour = "red"\n')
    wrong = bad(examine(broken))
    assert {finding.topic for finding in wrong} == {"settings"}
    assert any("[mine.prompts.sft_share]" in finding.text for finding in wrong)
    assert any("[mine.prompts.colour]" in finding.text for finding in wrong)
    assert {finding.remedy for finding in wrong} == {f"edit {file}"}


def test_settings_that_are_no_toml(broken: Home, project: Path) -> None:
    (project / "settings.toml").write_text("[default")
    only(examine(broken), Level.problem, "settings.toml")


def test_a_profile_that_does_not_exist(broken: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAI_PROFILE", "nobody")
    only(examine(broken), Level.problem, "no profile 'nobody'")


def test_constitutions_that_do_not_parse_or_are_not_seen(broken: Home, project: Path) -> None:
    (project / "constitutions" / "v9.yaml").write_text("title: x\nprinciples: []\nextra: 1\n")
    (project / "constitutions" / "V10.yml").write_text("title: x\n")
    wrong = bad(examine(broken))
    assert {finding.topic for finding in wrong} == {"constitutions"}
    assert any("v9.yaml:3" in finding.text for finding in wrong if finding.level == Level.problem)
    assert any("V10.yml" in finding.text for finding in wrong if finding.level == Level.warning)


def test_packages_against_the_pinned_ones(broken: Home, project: Path) -> None:
    file = project / "requirements" / "cpu.txt"
    file.write_text("rich==0.0.1\nthere-is-no-such-package==1\n" + file.read_text().replace("rich==", "pytest=="))
    missing, other = (
        next(finding for finding in examine(broken) if finding.topic == "packages" and finding.level == level)
        for level in (Level.problem, Level.warning)
    )
    assert "there-is-no-such-package" in missing.text
    assert missing.remedy == f"rm -f {PROJECT}/.venv/.installed* && make -C {PROJECT} setup"
    assert "(pinned: 0.0.1)" in other.text


def test_a_model_that_is_not_here(broken: Home, project: Path) -> None:
    shutil.rmtree(broken.models / "offline")
    wrong = bad(examine(broken))
    assert {(finding.topic, finding.remedy) for finding in wrong} == {
        ("policy", "cai setup"),
        ("feedback_model", "cai setup"),
    }
    file = project / "settings.toml"
    file.write_text(file.read_text() + '\n[mine.policy]\nmodel = "no-one/no-model"\nengine = "http"\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAI_PROFILE", "mine")
        texts = [finding.text for finding in bad(examine(broken)) if finding.topic == "policy"]
    assert any("base_urls" in text for text in texts)
    assert any("no-one/no-model" in text for text in texts)


def test_weights_that_were_damaged_or_changed(broken: Home) -> None:
    file = broken.models / "offline" / NAME / "model.safetensors"
    assert bad(examine(broken)) == []  # their hash is known from here on
    damage(file)
    assert bad(examine(broken)) == []  # only who reads it all can tell
    wrong = bad(examine(broken, full=True))
    assert {finding.topic for finding in wrong} == {"policy", "feedback_model"}
    assert all("damaged" in finding.text and finding.level == Level.problem for finding in wrong)

    write_tiny_weights(file, 1.0)
    wrong = bad(examine(broken))
    assert all("has changed since" in finding.text and finding.level == Level.warning for finding in wrong)
    assert len(wrong) == 2


@pytest.mark.parametrize("what", ["cut", "gone"])
def test_weights_of_the_offline_model_that_are_not_whole_are_made_anew(broken: Home, what: str) -> None:
    file = broken.models / "offline" / NAME / "model.safetensors"
    content = file.read_bytes()
    file.unlink()
    if what == "cut":
        file.write_bytes(content[:-1])
    remedy = f"rm -r {broken.models / 'offline'} && cai setup"
    assert {(finding.topic, finding.remedy) for finding in bad(examine(broken))} == {
        ("policy", remedy),
        ("feedback_model", remedy),
    }


def test_an_adapter_that_is_not_there(broken: Home, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = project / "settings.toml"
    file.write_text(file.read_text() + '\n[mine.policy]\nadapter = "/there/is/none"\n')
    monkeypatch.setenv("CAI_PROFILE", "mine")
    assert only(examine(broken), Level.problem, "/there/is/none").topic == "policy"


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_model_without_what_it_is_loaded_by(broken: Home, name: str) -> None:
    (broken.models / "sl_cai_model" / KEY / name).unlink()
    only(examine_integrity(broken), Level.problem, "has no")
    (broken.models / "offline" / NAME / name).unlink()
    wrong = bad(examine(broken))
    assert {finding.topic for finding in wrong} == {"policy", "feedback_model", "checkpoints"}


@pytest.mark.parametrize("name", ["staging", "models", "tables", "dagster"])
def test_a_file_where_a_folder_belongs(broken: Home, name: str) -> None:
    place = broken.root / name
    shutil.rmtree(place)
    place.touch()
    finding = next(finding for finding in examine(broken) if finding.topic == "home")
    assert f"{place} is a file" in finding.text
    run(str(finding.remedy))
    assert not [finding for finding in examine(broken) if finding.topic == "home"]


@pytest.mark.parametrize("name", ["catalog.sqlite", "ledger.sqlite", "forgotten_prompts.txt", "model_digests.json"])
def test_a_folder_where_a_file_belongs(broken: Home, name: str) -> None:
    place = broken.root / name
    place.unlink(missing_ok=True)
    place.mkdir()
    finding = only(examine(broken), Level.problem, f"{place} is a folder")
    run(str(finding.remedy))
    assert not place.exists()


def test_a_list_of_forgotten_prompts_that_is_damaged(broken: Home) -> None:
    broken.forgotten.write_bytes(b"\xff\xfe")
    only(examine(broken), Level.problem, str(broken.forgotten), "must not come back")
    broken.forgotten.write_bytes(b"\n")
    assert bad(examine(broken)) == []


@pytest.mark.parametrize("content", ["{", "[]", '{"a": 3}'])
def test_hashes_of_models_that_cannot_be_read_are_taken_anew(broken: Home, content: str) -> None:
    assert bad(examine(broken)) == []
    broken.model_digests.write_text(content)
    finding = only(examine(broken), Level.problem, str(broken.model_digests))
    run(str(finding.remedy))
    assert bad(examine(broken)) == []


def test_a_home_that_cannot_be_written_to_is_that_and_nothing_else(
    broken: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = OSError(errno.EROFS, os.strerror(errno.EROFS))
    monkeypatch.setattr(doctor, "why_not_writable", lambda folder: error)
    finding = one_of_disk(examine(broken, full=True))
    assert (finding.level, str(broken.root) in finding.text) == (Level.problem, True)
    assert "Read-only file system" in finding.text


def one_of_disk(findings: list[Finding]) -> Finding:
    """The only thing that is wrong is the disk."""
    (finding,) = [finding for finding in findings if finding.level == Level.problem and finding.topic != "packages"]
    assert finding.topic == "disk"
    return finding


@pytest.mark.parametrize(("free", "level"), [(2**29, Level.problem), (2**32, Level.warning), (2**40, Level.good)])
def test_room_on_the_disk(broken: Home, monkeypatch: pytest.MonkeyPatch, free: int, level: Level) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(2**41, 0, free))
    (finding,) = [finding for finding in examine(broken) if finding.topic == "disk"]
    assert finding.level == level


def test_a_machine_with_a_gpu_that_torch_does_not_see(broken: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "has_gpu", lambda: True)
    monkeypatch.setattr(doctor, "_TORCH", """print('{"version": "2.0", "cuda": false, "devices": []}')""")
    assert bad(examine(broken)) == []
    only(examine(broken, full=True), Level.problem, "does not see this machine's GPU")


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["doctor", *arguments])


def test_the_command_says_it_in_words_and_in_json_and_by_its_exit_status(
    broken: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    good: Callable[[Path], list[Finding]] = lambda requirements: []  # noqa: E731 - this machine's packages are no matter
    monkeypatch.setattr(doctor, "_packages", good)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(2**41, 0, 2**40))
    result = invoke()
    assert result.exit_code == 0
    assert "0 problems, 0 warnings" in result.output

    (broken.models / "reward_model" / KEY).mkdir(parents=True)
    result = invoke("--json")
    assert result.exit_code == 0  # a warning
    document = json.loads(result.output)
    assert (document["problems"], document["warnings"]) == (0, 1)

    (file,) = tables_of(broken, "revision_rounds")
    file.unlink()
    result = invoke("--json")
    assert result.exit_code == 1
    document = json.loads(result.output)
    assert document["problems"] == 1
    (wrong,) = [finding for finding in document["findings"] if finding["level"] == "problem"]
    assert wrong["topic"] == "lake"
    assert wrong["remedy"]
    result = invoke()
    assert result.exit_code == 1
    assert f"→ {wrong['remedy']}"[:40] in result.output


def test_what_it_names_cannot_take_over_the_terminal(broken: Home, project: Path) -> None:
    (project / "settings.toml").write_text(f'[default.x]\n"{HOSTILE[6].encode("unicode_escape").decode()}" = 1\n')
    result = invoke()
    assert result.exit_code == 1
    assert "\x1b" not in result.output
    assert "\u202e" not in result.output
