import json
import os
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import cai_dagster.models.hardware
import cai_dagster.models.weights
from cai_dagster.home import Home
from cai_dagster.models.chat_format import FORMAT_VERSION
from cai_dagster.models.hardware import has_fast_bfloat16, resolve_dtype
from cai_dagster.models.offline import NAME
from cai_dagster.models.weights import OFFLINE, WeightsError, locate_weights, weights_of

FILES = {
    "model-00001-of-00002.safetensors": "weights 1",
    "model-00002-of-00002.safetensors": "weights 2",
    "config.json": '{"hidden_size": 8}',
    "tokenizer.json": '{"model": {}}',
    "tokenizer_config.json": '{"eos_token": "</s>"}',
    "chat_template.jinja": "{{ messages }}",
    "record.json": '{"seconds": 1}',
    "README.md": "about",
}
_moments = count(1_700_000_000)


def write(file: Path, text: str) -> None:
    """Write with a time of change of its own: two writes may fall into one tick of the file system's clock."""
    file.write_text(text)
    moment = next(_moments)
    os.utime(file, (moment, moment))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    made.mkdir()
    for name, text in FILES.items():
        write(made / name, text)
    return made


def digest(folder: Path, home: Home) -> str:
    return weights_of("name", folder, home).digest


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("model-00002-of-00002.safetensors", "weights 3"),
        ("chat_template.jinja", "{{ messages }} "),
        ("tokenizer.json", '{"model": {"a": 1}}'),
        ("config.json", '{"hidden_size": 9}'),
        ("tokenizer_config.json", '{"eos_token": "<|end|>"}'),
        ("tokenizer_config.json", '{"eos_token": "</s>", "chat_template": "x"}'),
        ("model-00003-of-00003.safetensors", ""),
        ("modeling_own.py", "print()"),
        ("tokenizer.model", "x"),
    ],
)
def test_the_identity_follows_what_decides_an_answer(folder: Path, home: Home, name: str, text: str) -> None:
    before = digest(folder, home)
    write(folder / name, text)
    changed = digest(folder, home)
    assert changed != before
    assert digest(folder, Home(home.root / "other")) == changed


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("record.json", '{"seconds": 2}'),
        ("README.md", "more about"),
        ("tokenizer_config.json", '{"eos_token": "</s>", "local_files_only": true}'),
        ("tokenizer_config.json", '{"is_local": false, "name_or_path": "/x", "eos_token": "</s>"}'),
    ],
)
def test_the_identity_does_not_follow_how_it_was_made_or_loaded(folder: Path, home: Home, name: str, text: str) -> None:
    before = digest(folder, home)
    write(folder / name, text)
    assert digest(folder, home) == before


def test_the_identity_follows_the_names_of_files(folder: Path, home: Home) -> None:
    before = digest(folder, home)
    first, second = (folder / f"model-0000{number}-of-00002.safetensors" for number in (1, 2))
    second.rename(folder / "model-00003-of-00003.safetensors")  # in the same place of their order
    renamed = digest(folder, home)
    first.rename(second)
    (folder / "model-00003-of-00003.safetensors").rename(first)
    assert len({before, renamed, digest(folder, home)}) == 3


def test_a_copy_elsewhere_has_the_same_identity(folder: Path, home: Home, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for name, text in reversed(FILES.items()):
        write(copy / name, text)
    assert digest(copy, home) == digest(folder, home)


def test_files_are_hashed_once_for_each_of_their_states(
    folder: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[Any] = []
    compute = cai_dagster.models.weights._digest

    def counted(files: Any) -> str:
        hashed.append(files)
        return compute(files)

    monkeypatch.setattr(cai_dagster.models.weights, "_digest", counted)
    first = digest(folder, home)
    assert [digest(folder, home), digest(folder, home)] == [first, first]
    assert len(hashed) == 1
    write(folder / "model-00001-of-00002.safetensors", "weights 9")
    assert digest(folder, home) != first
    assert len(hashed) == 2


def test_two_processes_may_note_a_hash_at_once(
    folder: Path, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between writing and renaming the notes of one, the other writes and renames its own."""
    other = tmp_path / "other"
    other.mkdir()
    write(other / "model.safetensors", "other")
    replace = Path.replace

    def replace_after_another(path: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "replace", replace)
        weights_of("other", other, home)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", replace_after_another)
    first = digest(folder, home)
    assert digest(folder, home) == first
    assert [file.name for file in home.root.iterdir()] == ["model_digests.json"]


@pytest.mark.parametrize("file", [None, "pytorch_model.bin"])
def test_a_folder_without_safetensors_is_refused(tmp_path: Path, home: Home, file: str | None) -> None:
    if file:
        (tmp_path / file).touch()
    with pytest.raises(WeightsError, match=r"no safetensors file.*save_pretrained"):
        locate_weights(str(tmp_path), "", home)


def test_a_folder_is_located_by_its_path(folder: Path, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    located = locate_weights(str(folder), "", home)
    assert (located.name, located.folder) == ("model", folder)
    assert located == weights_of("model", folder, home)
    monkeypatch.setattr(cai_dagster.models.weights, "PROJECT", folder.parent)
    assert locate_weights("model", "", home) == located


def test_offline_is_the_prepared_model(folder: Path, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cai_dagster.models.weights, "prepare_offline_model", lambda of_home: {home: folder}[of_home])
    assert locate_weights(OFFLINE, "", home) == weights_of(NAME, folder, home)


@pytest.mark.parametrize(("revision", "asked"), [("", None), ("abc123", "abc123")])
def test_any_other_name_is_a_hub_model_on_this_machine(
    folder: Path, home: Home, monkeypatch: pytest.MonkeyPatch, revision: str, asked: str | None
) -> None:
    import huggingface_hub

    calls: list[tuple[str, str | None]] = []

    def snapshot_download(model: str, revision: str | None) -> str:
        calls.append((model, revision))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert locate_weights("someone/model", revision, home) == weights_of("someone/model", folder, home)
    assert calls == [("someone/model", asked)]


@pytest.mark.parametrize("model", ["no-such-owner/no-such-model", "no/such/folder/at/all", "not a name!", "~/nowhere"])
def test_an_unknown_name_is_refused_and_says_how_to_download(
    home: Home, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsError) as error:
        locate_weights(model, "", home)
    assert repr(model) in str(error.value)
    assert f"hf download {model}" in str(error.value)


def test_a_model_id_tells_files_type_and_format_apart(folder: Path, home: Home) -> None:
    weights = weights_of("name", folder, home)
    assert weights.model_id("float32") == f"name@{weights.digest[:16]}/float32/format-{FORMAT_VERSION}"
    assert weights.model_id("float32") != weights.model_id("bfloat16")


def test_the_noted_hashes_are_json_in_the_home(folder: Path, home: Home) -> None:
    found = digest(folder, home)
    assert list(json.loads((home.root / "model_digests.json").read_text()).values()) == [found]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_named_dtype_is_taken_at_its_word(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for fast in (True, False):
        monkeypatch.setattr(cai_dagster.models.hardware, "has_fast_bfloat16", lambda fast=fast: fast)
        assert resolve_dtype(dtype) == dtype


@pytest.mark.parametrize(("fast", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_auto_is_bfloat16_where_that_is_fast(fast: bool, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cai_dagster.models.hardware, "has_fast_bfloat16", lambda: fast)
    assert resolve_dtype("auto") == dtype


@pytest.mark.parametrize(
    ("flags", "gpu", "fast"),
    [
        ("fpu avx512_bf16 sse", False, True),
        ("fpu amx_bf16", False, True),
        ("fpu avx2 avx512f", False, False),
        ("fpu xavx512_bf16y", False, False),
        ("fpu", True, True),
        (None, False, False),
    ],
)
def test_bfloat16_is_fast_on_gpus_and_on_cpus_that_have_it(
    flags: str | None, gpu: bool, fast: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = tmp_path / "cpuinfo"
    if flags is not None:
        cpu.write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    monkeypatch.setattr(cai_dagster.models.hardware, "Path", lambda name: {"/proc/cpuinfo": cpu}[name])
    monkeypatch.setattr(cai_dagster.models.hardware, "has_gpu", lambda: gpu)
    assert has_fast_bfloat16() == fast


def test_of_a_model_served_elsewhere_only_the_tokenizer_need_be_here(folder: Path, home: Home) -> None:
    whole = locate_weights(str(folder), "v1", home, served_elsewhere=True)
    assert whole == locate_weights(str(folder), "", home)
    for file in folder.glob("*.safetensors"):
        file.unlink()
    described = locate_weights(str(folder), "v1", home, served_elsewhere=True)
    assert described.digest not in {whole.digest, locate_weights(str(folder), "v2", home, served_elsewhere=True).digest}
    with pytest.raises(WeightsError, match="no safetensors"):
        locate_weights(str(folder), "v1", home)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(WeightsError, match=r"no tokenizer\.json"):
        locate_weights(str(folder), "v1", home, served_elsewhere=True)
