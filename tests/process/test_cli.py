"""The command line as its page describes it: commands, JSON documents, exit statuses; its help and completion."""

import errno
import importlib.metadata
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import typer
from typer.testing import CliRunner

from cai_dagster.commands import cli, completion, dagster_process
from cai_dagster.commands import plan as plan_command
from cai_dagster.constitution.versions import ConstitutionError
from cai_dagster.home import Home, HomeError
from cai_dagster.lake.lake import Lake
from cai_dagster.plan.cost import plan
from cai_dagster.profiles import SettingsError, active_profile
from cai_dagster.project import PROJECT
from cai_dagster.settings import active_settings
from resources.lake import open_lake
from tests.explained_home import copied
from tests.labelled_home import LabelledHome
from tests.scripted_graph import materialize, scripted_models, write_prompts

PAGE = (PROJECT / "docs/cli.md").read_text(encoding="utf-8")
PAGES = PAGE + (PROJECT / "docs/compare.md").read_text(encoding="utf-8")
DOCUMENTED = {
    command: json.loads(block)
    for command, block in re.findall(r"<!-- keys: (cai [\w ]+) -->\n```json\n(.*?)```", PAGES, flags=re.DOTALL)
}
BY_NAME = {
    *(
        ".backwards.facts",
        ".backwards.texts",
        ".editions[].weights",
        ".rows",
        ".records",
        ".rejected",
        ".settings",
        ".tables[].reasons",
    ),
}  # as many keys as there are names
LONGEST_LINE = 64  # characters of a command's line in the help of a terminal of 80 columns


def commands(group: Any = None, name: str = "cai") -> Iterator[tuple[str, click.Command]]:
    """`cai import constitution` and its command, and so on."""
    group = group or typer.main.get_command(cli.app)
    for part, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{name} {part}")
        else:
            yield f"{name} {part}", command


COMMANDS = dict(commands())


def test_the_page_has_a_section_with_an_example_for_every_command_and_for_no_other() -> None:
    sections = dict(re.findall(r"^### (cai [\w ]+)\n+```sh\n(.*?)```", PAGE, flags=re.DOTALL | re.MULTILINE))
    assert set(sections) == set(COMMANDS)
    for command, example in sections.items():
        assert command in example
        options = set(re.findall(r"(?<![\w-])--[\w-]+", example.split(command, 1)[1].split("\n")[0]))
        known = {option for parameter in COMMANDS[command].params for option in parameter.opts}
        assert options <= known, command


def test_every_json_document_is_described() -> None:
    with_json = {name for name, command in COMMANDS.items() if any("--json" in one.opts for one in command.params)}
    assert set(DOCUMENTED) == with_json


def absent(document: Any, reference: Any, place: str = "") -> list[str]:
    """The keys of the reference that the document does not have, but for what lies below its nulls and empty lists."""
    if document is None or document == [] or (place in BY_NAME and isinstance(document, dict)):
        return []
    if isinstance(reference, list):
        return [gone for one in reference for gone in absent(document[0], one, f"{place}[]")]
    if not isinstance(reference, dict):
        return []
    here = [f"{place}.{name}" for name in reference if name not in document]
    both = [name for name in reference if name in document]
    return here + [gone for name in both for gone in absent(document[name], reference[name], f"{place}.{name}")]


def test_a_key_that_is_missing_is_found() -> None:
    assert absent({"a": [{"b": 1}], "c": None}, {"a": [{"b": 2, "x": 3}], "c": {"d": 4}, "y": 5}) == [".y", ".a[].x"]


@pytest.fixture(scope="module")
def compared(labelled: LabelledHome, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Two versions, the second judged against the first."""
    home = copied(labelled.home, tmp_path_factory.mktemp("compared") / "home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAI_HOME", str(home.root))
        materialize(["version_judgements"], labelled.config, version="v2")
    return home


@pytest.fixture
def lake_of_two_versions(home: Home, compared: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    copied(compared, home.root)
    models = scripted_models()
    monkeypatch.setattr(
        plan_command,
        "plan_of_profile",
        lambda versions, selection: plan(home, active_settings(), *models, versions, selection),
    )


@pytest.mark.parametrize(
    "command",
    [
        ("export", "--table", "preference_pairs", "--output", "PAIRS", "--version", "v2"),
        ("import", "constitution", "PRINCIPLES", "--output", "MADE"),
        ("plan", "--version", "v2"),
        ("status",),
        ("checks", "--version", "v1"),
        ("summary", "--version", "v2"),
        ("diff", "v1", "v2"),
        ("trace", "PAIR"),
        ("principle", "crisis-care"),
        ("doctor",),
        ("forget", "PROMPT", "--dry-run"),
    ],
    ids=lambda command: " ".join(command[: 1 + (command[0] == "import")]),
)
def test_a_json_document_has_the_keys_of_the_page(
    lake_of_two_versions: None, home: Home, tmp_path: Path, command: tuple[str, ...]
) -> None:
    pair = open_lake(home).snapshot("preference_pairs", "v1").frame().row(0, named=True)
    principles = tmp_path / "principles.txt"
    principles.write_text("Be kind to animals.\nBe kind to animals.\nSay what you do not know.\n")
    meant = {"PAIR": pair["pair_id"], "PROMPT": pair["prompt_id"], "PRINCIPLES": str(principles)}
    meant |= {"PAIRS": str(tmp_path / "pairs"), "MADE": str(tmp_path / "made.yaml")}
    ran = CliRunner().invoke(cli.app, [*(meant.get(word, word) for word in command), "--json"])
    assert ran.exit_code == 0 or command == ("doctor",), ran.output  # there is much amiss in a scripted home
    name = max((name for name in DOCUMENTED if f"cai {' '.join(command)} ".startswith(f"{name} ")), key=len)
    printed, described = json.loads(ran.stdout), DOCUMENTED[name]
    assert absent(described, printed) == []
    assert absent(printed, described) == []


def test_exit_statuses_are_those_of_the_page(home: Home) -> None:
    statuses = re.findall(r"^\| (\d+) \| ", PAGE, flags=re.MULTILINE)
    assert statuses == ["0", "1", "2", str(dagster_process.INTERRUPTED)]
    home.root.mkdir()
    run = CliRunner()
    assert run.invoke(cli.app, ["status"]).exit_code == 0
    assert run.invoke(cli.app, ["status", "--nonsense"]).exit_code == 2
    finished = subprocess.run(
        [sys.executable, "-c", "from cai_dagster.commands.cli import app; app(['diff', 'v1', 'v1'])"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (finished.returncode, finished.stdout) == (1, "")
    assert finished.stderr == "v1 and v1 are the same version; name two\n"


@pytest.mark.parametrize(
    "command",
    [
        ["status"],
        ["summary"],
        ["diff", "v1", "v2"],
        ["trace", "abcd"],
        ["principle", "crisis-care"],
        ["report", "v1"],
        ["forget", "abcd"],
        ["plan"],
        ["doctor"],
        ["retry", "--table", "revision_rounds", "--reason", "length", "--version", "v1"],
        ["export", "--table", "preference_pairs", "--output", "pairs", "--format", "trl", "--version", "v1"],
        ["score", "--model", "abcd"],
        ["setup"],
    ],
    ids=lambda command: command[0],
)
def test_a_home_that_is_a_file_is_an_error_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CAI_HOME", str(tmp_path / "file"))
    ran = CliRunner().invoke(cli.app, command)
    assert isinstance(ran.exception, HomeError)
    assert "is a file; it has to be a folder" in str(ran.exception)


@pytest.mark.parametrize("wrong", [["revision_rounds"], ["initial_responses", "--version", "v1"]])
def test_a_retry_of_calls_of_no_version_or_of_one_too_many_marks_nothing(home: Home, wrong: list[str]) -> None:
    ran = CliRunner().invoke(cli.app, ["retry", "--reason", "length", "--table", *wrong])
    assert ran.exit_code == 2
    assert not home.ledger.exists()


@pytest.fixture
def damaged(home: Home, tmp_path: Path, request: pytest.FixtureRequest) -> Home:
    """A home with prompts, and with nonsense in place of one of its databases."""
    materialize(["constitution", "prompts"], {"prompts": write_prompts(tmp_path / "p.jsonl", ["question"])})
    file: Path = getattr(home, request.param)
    for beside in home.root.glob(f"{file.name}-*"):
        beside.unlink()
    file.write_bytes(b"\xff" * 8_192)
    return home


@pytest.mark.parametrize(
    ("damaged", "command"),
    [
        ("catalog", "status"),
        ("catalog", "summary"),
        ("catalog", "trace abcd"),
        ("catalog", "report v1"),
        ("catalog", "retry --table revision_rounds --reason length --version v1"),
        ("catalog", "export --table preference_pairs --output pairs"),
        ("ledger", "forget 0 --dry-run"),
    ],
    indirect=["damaged"],
)
def test_a_damaged_file_is_said_in_words_and_with_what_to_do(
    damaged: Home, command: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (prompt,) = Lake(damaged).snapshot("prompts").frame()["prompt_id"] if "0" in command else ("",)
    with pytest.raises(SystemExit) as ended:
        cli.app(command.replace(" 0", f" {prompt}").split())
    said = capfd.readouterr()
    assert ended.value.code == 1
    assert "Traceback" not in said.err + said.out
    assert re.search("cai doctor|ut a copy of it back", said.err)


def test_an_error_of_the_system_is_one_line_and_no_traceback(
    home: Home, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(home.root))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(SystemExit) as ended:
        cli.app(["setup"])
    assert ended.value.code == 1
    said = capfd.readouterr().err
    assert "Permission denied" in said
    assert "cai doctor" in said
    assert "Traceback" not in said


def test_an_error_of_the_program_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Home:
        raise KeyError("a mistake of ours")

    monkeypatch.setattr(Home, "from_environment", staticmethod(fail))
    with pytest.raises(KeyError):
        cli.app(["status"])


def test_the_version_of_the_program() -> None:
    ran = CliRunner().invoke(cli.app, ["--version"])
    assert (ran.exit_code, ran.output) == (0, f"cai_dagster {importlib.metadata.version('cai_dagster')}\n")


@pytest.mark.parametrize(
    "wrong",
    [
        ["ui", "--port", "70000"],
        ["import", "preferences", "there-is-no-such-file.jsonl"],
        ["import", "constitution", "there-is-no-such-file.txt", "--output", "made.yaml"],
    ],
    ids=" ".join,
)
def test_a_wrong_argument_begins_nothing(home: Home, wrong: list[str]) -> None:
    assert CliRunner().invoke(cli.app, wrong).exit_code == 2
    assert not home.root.exists()


@pytest.mark.parametrize("command", [["demo"], ["import", "preferences", str(PROJECT / "README.md")]], ids=" ".join)
def test_settings_with_a_mistake_are_refused_before_dagster_starts(
    home: Home, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setenv("CAI_PROFILE", "nobody")
    active_settings.cache_clear()
    ran = CliRunner().invoke(cli.app, command)
    active_settings.cache_clear()
    assert isinstance(ran.exception, SettingsError)
    assert not home.root.exists()


def test_help_has_every_command_in_a_group_and_its_line_in_full() -> None:
    arranged = [command.__name__ for panel in cli.PANELS.values() for command in panel] + ["import"]
    assert sorted(arranged) == sorted({name.split()[1] for name in COMMANDS})
    shown = CliRunner().invoke(cli.app, ["--help"], env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"}).stdout
    assert "…" not in shown
    for panel in cli.PANELS:
        assert f"─ {panel} ─" in shown
    assert "130 interrupted" in shown
    for name, command in COMMANDS.items():
        line = command.get_short_help_str(1_000)
        assert line.endswith("."), name
        assert len(line) <= LONGEST_LINE, name


def completed(words: str, home: Home) -> list[str]:
    """What bash would offer for the last word."""
    environment = {
        **os.environ,
        "CAI_HOME": str(home.root),
        "_CAI_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    program = "import sys; sys.argv = ['cai']; from cai_dagster.commands.cli import app; app(prog_name='cai')"
    finished = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT, env=environment, capture_output=True, text=True, check=True
    )
    return finished.stdout.split()


def test_the_shell_completes_versions_tables_and_reward_models(home: Home) -> None:
    folder = home.models / "reward_model" / "3f2a"
    folder.mkdir(parents=True)
    (folder / "record.json").write_text("{}")
    (folder.parent / "half").mkdir()
    assert completed("cai diff v1 ", home) == ["v2", "v1"]
    assert completed("cai retry --table rev", home) == ["revision_rounds"]
    assert completed("cai export --table ", home) == ["sft_dataset", "preference_pairs"]
    assert completed("cai score --model ", home) == ["3f2a"]
    assert completed("cai principle crisis", home) == ["crisis-care"]
    assert "crisis-care" in completed("cai trace c", home)
    assert completed("cai retry --reason em", home) == ["empty_completion"]
    assert "status" in completed("cai s", home)


def test_every_option_that_takes_a_version_completes_it() -> None:
    missing = [
        name
        for name, command in COMMANDS.items()
        for parameter in command.params
        if parameter.name in {"version", "before", "after"} and not getattr(parameter, "_custom_shell_complete", None)
    ]
    assert missing == []
    assert completion.complete_version("") == ["v2", "v1"]


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("command", [["summary"], ["report", "v1"], ["principle", "crisis-care"], ["trace", "abcd"]])
def test_where_nothing_has_been_made_a_command_says_so_in_one_sentence(
    command: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.app(command)
    assert ended.value.code == 1
    said = capfd.readouterr()
    assert not said.out
    assert re.search(r"materialize|has not been|nothing", said.err)
    assert len(said.err) < 300


@pytest.mark.parametrize("name", ["V3", "third version", "../constitutions/v1", "v..1/x"])
@pytest.mark.parametrize(
    "command",
    ["plan --version", "status --version", "trace ab --version", "report", "retry --table judgements --version"],
)
def test_what_is_no_version_is_refused_by_every_command(home: Home, command: str, name: str) -> None:
    ran = CliRunner().invoke(cli.app, [*command.split(), name])
    assert isinstance(ran.exception, ConstitutionError)
    assert f"{name!r} is no version: a version is named [a-z0-9]" in str(ran.exception)
    assert "The versions are v1, v2" in str(ran.exception)
    assert not home.root.exists()


def test_a_plan_of_a_version_without_a_file_names_those_there_are(home: Home) -> None:
    home.root.mkdir()
    ran = CliRunner().invoke(cli.app, ["plan", "--version", "v77"])
    assert "there is no constitution version 'v77'" in str(ran.exception)
    assert "There are v1, v2" in str(ran.exception)


def test_a_dry_run_says_what_would_be_read_and_writes_nothing(home: Home, tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("question,id\nIs tea warm?,1\nIs it, or not?,2\n")
    wanted = ["import", "prompts", str(tmp_path / "q.csv"), "--prompt", "question", "--dry-run"]
    ran = CliRunner().invoke(cli.app, wanted)
    assert ran.exit_code == 0, ran.output
    said = " ".join(ran.output.split())
    assert (
        "2 rows, 1 kept (1 as question: text); refused: 1 bad_prompt; first q.csv:3: bad_prompt: the row has 3" in said
    )
    assert 'not read: id; first row: {"question": "Is tea warm?", "id": "1"}' in said
    assert "prompts: 1 rows, 1 rejected would come out of it" in said
    document = json.loads(CliRunner().invoke(cli.app, [*wanted, "--json"]).stdout)
    assert (document["rows"], document["dry_run"], document["sources"][0]["rows"]) == (1, True, 2)
    (tmp_path / "p.txt").write_text("Be kind.\n-\n")
    ran = CliRunner().invoke(cli.app, ["import", "constitution", str(tmp_path / "p.txt"), "--dry-run"])
    assert ran.exit_code == 0, ran.output
    assert "1 principles would be written" in ran.output
    assert "left out: p.txt:2: a bullet without a text" in ran.output
    assert not home.root.exists()


@pytest.mark.parametrize(
    "command",
    [["status"], ["plan"], ["report", "v1"], ["checks"], ["summary"], ["trace", "abcd"], ["export", "--table", "x"]],
    ids=lambda command: command[0],
)
def test_a_home_that_is_not_there_is_an_error_that_names_those_that_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    (tmp_path / "other" / "dagster").mkdir(parents=True)
    monkeypatch.setenv("CAI_HOME", str(tmp_path / "nope"))
    monkeypatch.setattr("cai_dagster.home.PROJECT", tmp_path)  # this checkout may have a home of its own
    if command[0] == "export":
        command = ["export", "--table", "preference_pairs", "--output", str(tmp_path / "out")]
    ran = CliRunner().invoke(cli.app, command)
    assert ran.exit_code == 1
    assert str(ran.exception) == (
        f"CAI_HOME names {tmp_path / 'nope'}, which is not there; homes that are: {tmp_path / 'other'}"
    )
    assert not (tmp_path / "nope").exists()


@pytest.mark.parametrize("command", [["report", "v1"], ["summary"]], ids=lambda command: command[0])
def test_a_command_that_reads_makes_no_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("CAI_HOME", str(tmp_path / "home"))
    ran = CliRunner().invoke(cli.app, command)
    assert "nothing has been made here yet; `cai run` and `cai demo` make a version" in str(ran.exception)
    assert not list((tmp_path / "home").iterdir())


def test_a_profile_that_is_not_there_is_an_error_of_every_command_that_names_those_that_are(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAI_PROFILE", "dmeo")
    for command in (["status"], ["trace", "abcd"], ["doctor"]):
        ran = CliRunner().invoke(cli.app, command)
        assert str(ran.exception).endswith("has no profile 'dmeo'; there are default, demo; did you mean demo?")
    monkeypatch.delenv("CAI_PROFILE")
    ran = CliRunner().invoke(cli.app, ["run", "--profile", "deom"])
    assert "did you mean demo?" in str(ran.exception)


def test_the_profile_of_a_home_is_the_one_that_it_was_made_with_until_it_is_changed(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CAI_PROFILE", raising=False)
    assert active_profile() == "default"
    monkeypatch.setenv("CAI_PROFILE", "demo")
    materialize(["constitution"], {})
    monkeypatch.delenv("CAI_PROFILE")
    assert active_profile() == "demo"
    monkeypatch.setenv("CAI_PROFILE", "default")
    materialize(["constitution"], {})
    assert active_profile() == "default"
    monkeypatch.delenv("CAI_PROFILE")
    assert active_profile() == "demo"


@pytest.mark.parametrize(
    ("word", "meant"), [("compare", "diff"), ("materialize", "run"), ("lineage", "trace"), ("statsu", "status")]
)
def test_a_command_by_another_name_is_understood(word: str, meant: str) -> None:
    ran = CliRunner().invoke(cli.app, [word, "v1"])
    assert ran.exit_code == 2
    assert f"Did you mean '{meant}'?" in " ".join(ran.output.split())


@pytest.mark.parametrize(
    "command",
    [["report", "v22"], ["status", "--version", "v22"], ["plan", "--version", "v22"], ["diff", "v1", "v22"]],
    ids=lambda command: command[0],
)
def test_an_unknown_version_is_said_with_those_there_are(home: Home, command: list[str]) -> None:
    home.root.mkdir()
    ran = CliRunner().invoke(cli.app, command)
    assert isinstance(ran.exception, ConstitutionError)
    assert "There are v1, v2; did you mean v2?" in str(ran.exception)


def test_the_ui_says_at_once_that_its_port_is_taken(home: Home) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ran = CliRunner().invoke(cli.app, ["ui", "--port", str(port)])
    assert ran.exit_code == 1
    assert f"port {port} on 127.0.0.1 cannot be used (Address already in use)" in str(ran.exception)
    assert not home.root.exists()


def test_the_checks_of_a_version_are_printed_with_value_bound_and_advice(home: Home, tmp_path: Path) -> None:
    prompts = {"prompts": write_prompts(tmp_path / "p.jsonl", [f"question {n}" for n in range(30)])}
    materialize(["constitution", "prompts", "initial_responses", "revision_rounds"], prompts)
    shown = CliRunner().invoke(cli.app, ["checks", "--version", "v1"], env={"COLUMNS": "200"}).stdout
    assert re.search(r"^v1 +revision_rounds.principle_coverage +(passed|not measured) ", shown, flags=re.MULTILINE)
    failed = CliRunner().invoke(cli.app, ["checks", "--failed"]).stdout
    bad = [row["check"] for row in json.loads(CliRunner().invoke(cli.app, ["checks", "--failed", "--json"]).stdout)]
    for check in bad:
        assert check in failed
    assert ("No check failed or warned." in failed) == (not bad)


def test_what_a_command_started_ends_with_it_also_in_the_background_of_a_shell(home: Home) -> None:
    """`kill` of `cai ui` ends Dagster too; a shell has its background jobs ignore Ctrl-C."""
    program = "import signal; print(signal.getsignal(signal.SIGINT) != signal.SIG_IGN, flush=True); signal.pause()"
    (home.root / "dagster").mkdir(parents=True)
    (home.root / "started.py").write_text(program)
    starts = f"import os; os.environ['PYTHONPATH'] = {str(home.root)!r}"
    runs = "from cai_dagster.commands.dagster_process import run_program; run_program('started')"
    script = f'trap "" INT; exec "{sys.executable}" -c "{starts}; {runs}"'
    process = subprocess.Popen(["bash", "-c", script], cwd=PROJECT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert process.stderr.readline() == "True\n"
    process.terminate()
    assert process.wait(60) != 0
    assert process.stderr.read() is not None  # ends once nobody holds the pipe
