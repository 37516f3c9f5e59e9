"""settings.toml: its profiles, and how a mistake in it is named."""

from pathlib import Path

import pytest

from cai_dagster.calls.requests import Sampling
from cai_dagster.checks.settings import CheckSettings, Severity
from cai_dagster.home import Home
from cai_dagster.profiles import active_model, remember_profile, remembered_profile
from cai_dagster.settings import SETTINGS_FILE, Settings, SettingsError, active_settings, load_settings

SHIPPED = SETTINGS_FILE.read_text(encoding="utf-8")
DEFAULT = load_settings(SETTINGS_FILE, "default")


def with_profile(folder: Path, extra: str, shipped: str = SHIPPED) -> Path:
    """The shipped file and a profile `mine`."""
    file = folder / "settings.toml"
    file.write_text(f"{shipped}\n{extra}\n", encoding="utf-8")
    return file


def refusal(file: Path, profile: str = "mine") -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(file, profile)
    return str(caught.value)


@pytest.mark.parametrize("profile", ["default", "demo"])
def test_a_shipped_profile_loads(profile: str) -> None:
    assert isinstance(load_settings(SETTINGS_FILE, profile), Settings)


def test_demo_is_default_with_changes() -> None:
    demo = load_settings(SETTINGS_FILE, "demo")
    assert demo.prompts == DEFAULT.prompts
    assert demo.revision_rounds.rounds < DEFAULT.revision_rounds.rounds
    assert demo.checks.label_mass == DEFAULT.checks.label_mass.model_copy(update={"severity": Severity.WARN})


def test_a_profile_changes_what_it_names_and_inherits_the_rest(tmp_path: Path) -> None:
    extra = """
    [mine.prompts]
    sources = ["my.jsonl"]
    [mine.revision_rounds]
    rounds = 9
    [mine.checks.length_ratio]
    at_least = 0.25
    """
    mine = load_settings(with_profile(tmp_path, extra), "mine")
    checks = DEFAULT.checks.model_copy(
        update={"length_ratio": DEFAULT.checks.length_ratio.model_copy(update={"at_least": 0.25})}
    )
    assert mine == DEFAULT.model_copy(
        update={
            "prompts": DEFAULT.prompts.model_copy(update={"sources": ["my.jsonl"]}),
            "revision_rounds": DEFAULT.revision_rounds.model_copy(update={"rounds": 9}),
            "checks": checks,
        }
    )
    assert load_settings(tmp_path / "settings.toml", "default") == DEFAULT


@pytest.mark.parametrize(
    ("section", "value", "field"),
    [
        ("policy", "max_model_len = 255", "max_model_len"),
        ("policy", "max_model_length = 2048", "max_model_length"),
        ("policy", 'model = ""', "model"),
        ("policy", 'dtype = "int4"', "dtype"),
        ("policy", "calls_in_flight = -1", "calls_in_flight"),
        ("policy", "gpu_memory_utilization = 1.01", "gpu_memory_utilization"),
        ("policy", "gpu_memory_utilization = nan", "gpu_memory_utilization"),
        ("policy", 'engine_arguments = {dtype = "float16"}', "engine_arguments"),
        ("policy", "engine_arguments = {max_num_seqs = 8}", "engine_arguments"),
        ("feedback_model", 'engine_arguments = {hf_overrides = {head_dtype = "float32"}}', "engine_arguments"),
        ("prompts", "sources = []", "sources"),
        ("prompts", 'sources = "prompts"', "sources"),
        ("prompts", "longest_prompt = 0", "longest_prompt"),
        ("initial_responses", "temperature = -0.1", "temperature"),
        ("initial_responses", "temperature = 2.1", "temperature"),
        ("initial_responses", "top_p = 0", "top_p"),
        ("initial_responses", "seed = 2147483648", "seed"),
        ("initial_responses", 'samples = "one"', "samples"),
        ("revision_rounds", "rounds = 0", "rounds"),
        ("revision_rounds", "rounds = 2.5", "rounds"),
        ("revision_rounds", 'splits = ["train"]', "splits"),
        ("sft_dataset", 'rounds = "some"', "rounds"),
        ("sl_cai_model", "learning_rate = 0", "learning_rate"),
        ("sl_cai_model", "learning_rate = nan", "learning_rate"),
        ("sl_cai_model", "warmup_share = 1", "warmup_share"),
        ("preference_pairs", 'label_policy = "firm"', "label_policy"),
        ("checks.label_mass", 'severity = "FATAL"', "severity"),
        ("checks.label_maas", 'severity = "WARN"', ""),
        ("judgments", "both_orders = true", ""),
    ],
)
def test_a_wrong_setting_is_named_with_profile_section_and_field(
    tmp_path: Path, section: str, value: str, field: str
) -> None:
    file = with_profile(tmp_path, f"[mine.{section}]\n{value}")
    place = f"mine.{section}.{field}".rstrip(".")
    message = refusal(file)
    assert message.startswith(f"{file}: [{place}]: ")
    assert "\n" not in message


def test_what_a_project_does_not_set_has_the_default_of_the_package(tmp_path: Path) -> None:
    file = with_profile(tmp_path, "[default.prompts]\nlongest_prompt = 99")
    default = DEFAULT.model_copy(update={"prompts": DEFAULT.prompts.model_copy(update={"longest_prompt": 99})})
    assert load_settings(file, "default") == default
    assert load_settings(file, "demo").prompts == default.prompts


def test_a_profile_extends_another(tmp_path: Path) -> None:
    extra = """
    [small]
    extend = "demo"
    [small.initial_responses]
    max_tokens = 9
    [smaller]
    extend = "small"
    [smaller.revision_rounds]
    rounds = 1
    """
    file = with_profile(tmp_path, extra)
    demo, smaller = load_settings(file, "demo"), load_settings(file, "smaller")
    assert smaller == demo.model_copy(
        update={
            "initial_responses": demo.initial_responses.model_copy(update={"max_tokens": 9}),
            "revision_rounds": demo.revision_rounds.model_copy(update={"rounds": 1}),
        }
    )


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ("[mine]\nextend = 'nobody'", "extends 'nobody'; the profiles are default, demo, mine"),
        ("[mine]\nextend = 'other'\n[other]\nextend = 'mine'", "mine → other → mine"),
        ("[mine]\nextend = 'mine'", "mine → mine"),
    ],
)
def test_a_profile_that_extends_nothing_or_itself_is_refused(tmp_path: Path, extra: str, said: str) -> None:
    assert said in refusal(with_profile(tmp_path, extra))


def test_a_setting_that_there_is_not_is_said_with_those_like_it(tmp_path: Path) -> None:
    message = refusal(with_profile(tmp_path, "[mine.revision_rounds]\nrounts = 3\n[mine.judgments]\nx = 1"))
    assert "did you mean rounds?" in message
    assert "did you mean judgements" in message


def test_shares_that_leave_no_prompt_for_evaluation_are_refused(tmp_path: Path) -> None:
    file = with_profile(tmp_path, "[mine.prompts]\nsft_share = 0.5\npreference_share = 0.5")
    message = refusal(file)
    assert message.startswith(f"{file}: [mine.prompts]: ")
    assert "below 1" in message


def test_every_wrong_setting_is_named_at_once(tmp_path: Path) -> None:
    file = with_profile(tmp_path, "[mine.initial_responses]\nsamples = 0\ntemperature = 3")
    assert {line.split("]: ")[0] for line in refusal(file).splitlines()} == {
        f"{file}: [mine.initial_responses.samples",
        f"{file}: [mine.initial_responses.temperature",
    }


def test_a_mistake_in_one_profile_leaves_the_others_usable(tmp_path: Path) -> None:
    file = with_profile(tmp_path, "[mine.revision_rounds]\nrounds = 17")
    assert load_settings(file, "default") == DEFAULT


def test_an_unknown_profile_is_refused_with_those_there_are() -> None:
    message = refusal(SETTINGS_FILE, "production")
    assert str(SETTINGS_FILE) in message
    assert "'production'" in message
    assert "default, demo" in message


@pytest.mark.parametrize("text", [b"[default\n", b"[default]\nx = \n", b"[default]\nx = 1\nx = 2\n", b"x = '\xff'\n"])
def test_a_broken_file_is_named(tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "settings.toml"
    file.write_bytes(text)
    assert refusal(file, "default").startswith(f"{file}: ")


@pytest.mark.parametrize(
    ("extra", "place"),
    [
        ("[mine]\npolicy = 1", "mine.policy"),
        ("[mine.checks]\nlabel_mass = 0.9", "mine.checks.label_mass"),
        ("[mine.policy.model]\nname = 1", "mine.policy.model"),
        ("[mine.prompts.sources]\nfirst = 1", "mine.prompts.sources"),
        ("[mine.policy.max_model_len]\nmost = 1", "mine.policy.max_model_len"),
    ],
)
def test_a_value_where_a_section_belongs_and_the_reverse_are_named(tmp_path: Path, extra: str, place: str) -> None:
    file = with_profile(tmp_path, extra)
    assert f"{file}: [{place}]: " in refusal(file)


def test_a_profile_that_is_no_table_is_refused_by_name(tmp_path: Path) -> None:
    file = with_profile(tmp_path, "", f"mine = 1\n{SHIPPED}")
    message = refusal(file)
    assert str(file) in message
    assert "mine" in message


def test_the_environment_chooses_the_active_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {}
    for profile in ("demo", "default"):
        monkeypatch.setenv("CAI_PROFILE", profile)
        active_settings.cache_clear()
        chosen[profile] = active_settings()
    monkeypatch.undo()
    active_settings.cache_clear()
    assert chosen == {profile: load_settings(SETTINGS_FILE, profile) for profile in ("demo", "default")}


@pytest.mark.parametrize(
    ("at_least", "at_most", "inside", "outside"),
    [
        (0.5, None, [0.5, 0.51, 1e9], [0.49, -1.0]),
        (None, 0.5, [0.5, 0.49, -1e9], [0.51, 1.0]),
        (0.67, 1.5, [0.67, 1.0, 1.5], [0.66, 1.51]),
        (0.0, 0.0, [0.0], [-1e-9, 1e-9]),
        (0.67, 1.5, [], [float("nan")]),
    ],
)
def test_a_check_passes_at_its_bounds_and_between_them(
    at_least: float | None, at_most: float | None, inside: list[float], outside: list[float]
) -> None:
    check = CheckSettings(severity=Severity.ERROR, at_least=at_least, at_most=at_most)
    assert [value for value in inside + outside if check.passes(value)] == inside


def test_a_check_that_could_never_fail_is_refused() -> None:
    with pytest.raises(ValueError, match="has no bound"):
        CheckSettings(severity=Severity.ERROR)


def test_a_check_above_a_bound_does_not_pass_at_it() -> None:
    check = CheckSettings(severity=Severity.ERROR, above=0.5)
    assert [check.passes(value) for value in (0.5, 0.501, float("nan"))] == [False, True, False]
    assert check.bounds == "above 0.5"


def test_bounds_are_written_out() -> None:
    assert CheckSettings(severity=Severity.WARN, at_least=0.67, at_most=1.5).bounds == "at least 0.67, at most 1.5"
    assert CheckSettings(severity=Severity.WARN, at_most=0.05).bounds == "at most 0.05"


OVERRIDES = """
[mine.checks.rejected_share]
at_most = 0.04
[mine.checks.rejected_share.tables.prompts]
at_most = 0.3
severity = "WARN"
[mine.checks.rejected_share.versions.v2]
at_most = 0.2
"""


def test_bounds_of_a_check_hold_for_the_table_and_version_that_they_are_given_for(tmp_path: Path) -> None:
    check = load_settings(with_profile(tmp_path, OVERRIDES), "mine").checks.rejected_share
    assert (check.bound_of("judgements").at_most, check.bound_of("judgements").severity) == (0.04, Severity.ERROR)
    assert (check.bound_of("prompts").at_most, check.bound_of("prompts").severity) == (0.3, Severity.WARN)
    assert check.bound_of("judgements", "v1") == check.bound_of("judgements")
    assert check.bound_of("judgements", "v2").at_most == 0.2
    assert check.bound_of("prompts", "v2").at_most == 0.2  # a version's own comes last
    assert check.bound_of("prompts", "v2").severity == Severity.WARN
    assert check.bound_of("prompts", "v2").bounds == "at most 0.2"
    assert check.summary_of("judgements") == "at most 0.04 (ERROR); of v2 at most 0.2 (ERROR)"


def test_of_many_versions_with_bounds_of_their_own_a_few_are_told() -> None:
    bounds = {f"v{number}": {"at_most": number / 10} for number in range(1, 9)}
    check = CheckSettings.model_validate({"severity": "WARN", "at_most": 0.3, "versions": bounds})
    told = check.summary_of("prompts").split("; ")
    assert told[:2] == ["at most 0.3 (WARN)", "of v1 at most 0.1 (WARN)"]
    assert not any("v3" in one for one in told)  # it has the same
    assert (len(told), told[-1]) == (7, "of 2 more versions others")


@pytest.mark.parametrize(
    ("section", "text", "place", "said"),
    [
        ("label_mass.versions.v99", "at_least = 0.1", "label_mass.versions.v99", "no such constitution; there are v1"),
        ("label_mass.tables.prompts", "at_least = 0.1", "label_mass.tables.prompts", "not on this table, but on judge"),
        ("rejected_share.tables.promts", "at_most = 1", "rejected_share.tables.promts", "but on prompts, "),
        ("label_mass.versions.v1", "", "label_mass.versions.v1", "changes nothing"),
        ("rejected_share.tables.prompts", "", "rejected_share.tables.prompts", "changes nothing"),
        ("label_mass.versions.v1", "at_lest = 0.1", "label_mass.versions.v1.at_lest", ""),
        ("label_mass.versions.v1", "severity = 'FATAL'", "label_mass.versions.v1.severity", ""),
        ("label_mass.versions.v1", "at_least = nan", "label_mass.versions.v1.at_least", ""),
        ("label_mass", "at_least = inf", "label_mass.at_least", ""),
        ("label_mass.versions", "v1 = 0.5", "label_mass.versions.v1", ""),
        ("label_mass.versions.v1", "at_most = 0.5", "label_mass", "v1: nothing is at least 0.9, at most 0.5"),
        ("judge_agreement", "at_most = 0.5", "judge_agreement", "nothing is above 0.5, at most 0.5"),
    ],
)
def test_an_override_that_fits_nothing_is_refused_with_its_place(
    tmp_path: Path, section: str, text: str, place: str, said: str
) -> None:
    file = with_profile(tmp_path, f"[mine.checks.{section}]\n{text}")
    message = refusal(file)
    assert message.startswith(f"{file}: [mine.checks.{place}]: ")
    assert said in message
    assert "\n" not in message


def test_each_stage_samples_as_its_settings_say() -> None:
    drawn = {"temperature": 0.3, "top_p": 0.8, "seed": 11}
    first = DEFAULT.initial_responses.model_copy(update={**drawn, "max_tokens": 21})
    rounds = DEFAULT.revision_rounds.model_copy(update={**drawn, "critique_max_tokens": 22, "revision_max_tokens": 23})
    pairs = DEFAULT.response_pairs.model_copy(update={**drawn, "max_tokens": 24})
    assert first.sampling == Sampling(0.3, 0.8, 21, 11)
    assert rounds.critique_sampling == Sampling(0.3, 0.8, 22, 11)
    assert rounds.revision_sampling == Sampling(0.3, 0.8, 23, 11)
    assert pairs.sampling == Sampling(0.3, 0.8, 24, 11)


def test_the_model_that_is_named_takes_the_place_of_both_of_the_profile_in_this_home_from_then_on(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAI_MODEL", "/models/mine")
    named = load_settings(SETTINGS_FILE, "demo", active_model())
    remember_profile(home, "demo")
    monkeypatch.delenv("CAI_MODEL")
    assert (remembered_profile(home), active_model()) == ("demo", "/models/mine")
    assert (named.policy.model, named.feedback_model.model) == ("/models/mine", "/models/mine")
    profile = load_settings(SETTINGS_FILE, "demo")
    assert named.policy == profile.policy.model_copy(update={"model": "/models/mine"})
    remember_profile(home, "demo")
    assert active_model() is None
