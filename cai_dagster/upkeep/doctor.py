"""What `cai doctor` looks at: the program, the models, the machine, the Dagster instance, the settings and the home.

Dagster's instance is read as the files that it is: nothing here imports Dagster, loads a model or goes to the network.
"""

import errno
import importlib.metadata
import importlib.util
import json
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil

from cai_dagster.constitution.constitution import load_constitution
from cai_dagster.constitution.versions import (
    VERSION_PATTERN,
    ConstitutionError,
    constitution_versions,
    files_of_no_version,
)
from cai_dagster.disk import existing, is_read_only, why_not_writable
from cai_dagster.errors import MendableError
from cai_dagster.home import Home
from cai_dagster.models.hardware import has_fast_bfloat16, has_gpu, resolve_dtype
from cai_dagster.models.offline import NAME
from cai_dagster.models.settings import EngineKind, LanguageModelSettings
from cai_dagster.models.weights import (
    OFFLINE,
    Weights,
    WeightsError,
    former_digests,
    fresh_digest,
    is_whole,
    known_digests,
    lacking,
    locate_weights,
    with_adapter,
)
from cai_dagster.profiles import SettingsError, active_profile, profiles_of
from cai_dagster.project import CHECKOUT, CONSTITUTIONS, PROJECT, PROJECT_FILES, SETTINGS_FILE
from cai_dagster.settings import load_settings
from cai_dagster.upkeep.findings import Finding, good, problem, quoted, some_of, warning
from cai_dagster.upkeep.instance import examine_instance
from cai_dagster.upkeep.integrity import examine_integrity

_DEVICE = "gpu" if any(importlib.metadata.distributions(name="vllm")) else "cpu"
REQUIREMENTS = PROJECT_FILES / "requirements" / f"{_DEVICE}.txt"
LEAST_PYTHON = (3, 11)
LITTLE_DISK, TOO_LITTLE_DISK = 5 * 2**30, 2**30
NAMED = 5  # of many, so many are named
_SETUP = (
    f"rm -f {quoted(CHECKOUT / '.venv')}/.installed* && make -C {quoted(CHECKOUT)} setup"
    if (CHECKOUT / "Makefile").exists()
    else f"pip install --no-deps -r {quoted(REQUIREMENTS)}"
)
_NEW_VENV = "make an environment of Python 3.11 or later and install cai_dagster there"
_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
_TORCH = """
import json, torch
cuda = torch.cuda.is_available()
names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())] if cuda else []
print(json.dumps({"version": torch.__version__, "cuda": cuda, "devices": names}))
"""


def examine(home: Home, full: bool = False) -> list[Finding]:
    """Everything there is to find; `full` also hashes the weights anew, reads every row and asks torch what it sees."""
    settings = SETTINGS_FILE
    blocked = _writable(home) or _places(home)
    looks: dict[str, Callable[[], list[Finding]]] = {
        "python": _python,
        "packages": lambda: _packages(REQUIREMENTS),
        "settings": lambda: _settings(settings),
        "constitutions": lambda: _constitutions(CONSTITUTIONS),
        "machine": lambda: _machine(home),
        "home": lambda: blocked,
        "torch": lambda: _torch() if full else [],
        "models": lambda: [] if blocked else _models(home, settings, full),
        "instance": lambda: examine_instance(home),
        "tables": lambda: [] if blocked else examine_integrity(home, full),
    }
    return [finding for topic, look in looks.items() for finding in _looked(topic, look)]


def _looked(topic: str, look: Callable[[], list[Finding]]) -> list[Finding]:
    """What one look finds; where it fails, that, so that all else is said as well."""
    try:
        return look()
    except Exception as error:  # noqa: BLE001 - whatever is damaged in a way that nobody thought of
        text = f"could not be looked at: {type(error).__name__}: {error}"
        return [problem(topic, text, "mend or move away what it names, and run cai doctor again")]


def _python() -> list[Finding]:
    version = platform.python_version()
    if sys.version_info < LEAST_PYTHON:
        return [problem("python", f"Python {version}; 3.11 or later is needed", _NEW_VENV)]
    return [good("python", f"Python {version}, {sys.executable}")]


def _packages(requirements: Path) -> list[Finding]:
    """What is installed against what is pinned. Another version is a warning: it may be chosen."""
    try:
        lines = requirements.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        return [warning("packages", f"{requirements}: {error.strerror}", "work in a clone of the project")]
    pinned = dict(line.split("==", 1) for line in lines if "==" in line)
    installed = {name: _installed(name) for name in pinned}
    missing = [name for name, version in installed.items() if version is None]
    others = [
        f"{name} {version} (pinned: {pinned[name]})"
        for name, version in installed.items()
        if version is not None and version != pinned[name]
    ]
    findings: list[Finding] = []
    if missing:
        findings.append(problem("packages", f"not installed: {some_of(missing, NAMED)}", _SETUP))
    if others:
        text = f"not the pinned version: {some_of(others, NAMED)}"
        findings.append(warning("packages", text, f"{_SETUP}, unless you chose them"))
    return findings or [good("packages", f"all {len(pinned)} are the versions in {requirements.name}")]


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _settings(file: Path) -> list[Finding]:
    """Every profile, whichever is in use."""
    remedy = f"edit {file}"
    try:
        profiles = list(profiles_of(file))
    except SettingsError as error:
        return [problem("settings", str(error), remedy)]
    active = active_profile()
    lines: list[str] = []
    for profile in dict.fromkeys([*profiles, active]):
        try:
            load_settings(file, profile)
        except SettingsError as error:
            lines += str(error).splitlines()
    if lines:
        other = f"CAI_PROFILE: unset it, or name one of {', '.join(profiles)}"
        wrong_name = active not in profiles
        remedies = {line: other if wrong_name and "no profile" in line else remedy for line in lines}
        return [problem("settings", line, remedy) for line, remedy in remedies.items()]
    return [good("settings", f"{file.name} is valid; profiles {', '.join(profiles)}, active: {active}")]


def _constitutions(folder: Path) -> list[Finding]:
    versions = constitution_versions(folder)
    findings: list[Finding] = []
    for version in versions:
        file = folder / f"{version}.yaml"
        try:
            load_constitution(file)
        except ConstitutionError as error:
            findings += [problem("constitutions", line, f"edit {file}") for line in str(error).splitlines()]
    unseen = files_of_no_version(folder)
    if unseen:
        text = f"no version, because a version is named {VERSION_PATTERN.pattern}.yaml: {some_of(unseen, NAMED)}"
        findings.append(warning("constitutions", text, f"rename it in {folder}"))
    return findings or [good("constitutions", ", ".join(versions) or "none")]


def _machine(home: Home) -> list[Finding]:
    cpu = Path("/proc/cpuinfo")
    flags = set(re.findall(r"\w+", cpu.read_text(errors="replace"))) if cpu.exists() else set[str]()
    features = [name for name in _FEATURES if name in flags]
    memory = psutil.virtual_memory().total / 2**30
    dtype = f"bfloat16 is {'fast' if has_fast_bfloat16() else 'slow'} here: dtype auto is {resolve_dtype('auto')}"
    text = (
        f"{psutil.cpu_count()} cores ({', '.join(features) or 'no vector features known'}), {memory:.0f} GiB memory, "
    )
    findings = [good("machine", f"{text}{'a GPU' if has_gpu() else 'no GPU'}; {dtype}")]
    if cpu.exists() and not has_gpu() and "avx2" not in flags and platform.machine() == "x86_64":
        findings.append(
            warning("machine", "this CPU has no AVX2", "vLLM's CPU build may not run here: serve models over HTTP")
        )
    free = shutil.disk_usage(existing(home.root)).free
    text = f"{free / 2**30:.1f} GiB free on the disk of {home.root}"
    remedy = "free some, or set CAI_HOME to a folder on a larger disk"
    if free < TOO_LITTLE_DISK:
        return [*findings, problem("disk", text, remedy)]
    return [*findings, warning("disk", text, remedy) if free < LITTLE_DISK else good("disk", text)]


def _writable(home: Home) -> list[Finding]:
    """Nothing, where the home can be written to. Elsewhere nothing in it can be looked at: reading takes locks."""
    error = why_not_writable(existing(home.root))
    if error is None:
        return []
    text = f"{home.root} cannot be written to ({error.strerror}): models, tables and ledger in it were not looked at"
    mend = "free some room there"
    if error.errno == errno.EROFS:
        mend = "mount it for writing (it can be read as it is: cai status, plan, trace, diff, report --output FILE)"
    elif is_read_only(home.root):
        mend = f'chown -R "$(id -un)" {quoted(home.root)}'
    remedy = f"{mend}, or set CAI_HOME to another folder"
    return [problem("disk", text, remedy)]


def _places(home: Home) -> list[Finding]:
    """Files where a folder belongs, and folders where a file does: no more can be looked at then."""
    folders = [home.models, home.models / "offline", home.staging, home.dagster]
    folders += [home.tables] if home.tables_are_local else []
    files = (home.catalog, home.ledger, home.forgotten, home.model_digests)
    wrong = [(place, "a file, and a folder") for place in folders if place.exists() and not place.is_dir()]
    wrong += [(place, "a folder, and a file") for place in files if place.is_dir()]
    return [
        problem("home", f"{place} is {what} belongs there", f"mv {quoted(place)} {quoted(f'{place}.moved')}")
        for place, what in wrong
    ]


def _torch() -> list[Finding]:
    """What torch sees; in a process of its own, because it takes seconds and gigabytes to import."""
    asked = subprocess.run([sys.executable, "-c", _TORCH], capture_output=True, text=True, check=False)  # noqa: S603
    if asked.returncode:
        said = (asked.stderr.strip().splitlines() or ["no word"])[-1]
        return [problem("torch", f"cannot be imported: {said}", _SETUP)]
    seen = json.loads(asked.stdout.splitlines()[-1])
    if has_gpu() and not seen["cuda"]:
        text = f"torch {seen['version']} does not see this machine's GPU"
        return [problem("torch", text, "pip install -e .[gpu], with a torch that was built for the GPU")]
    return [good("torch", f"torch {seen['version']}, {', '.join(seen['devices']) or 'CPU only'}")]


def _models(home: Home, settings_file: Path, full: bool) -> list[Finding]:
    try:
        settings = load_settings(settings_file, active_profile())
    except SettingsError:
        return []  # said already
    if wrong := _digests(home):
        return wrong
    models = {"policy": settings.policy, "feedback_model": settings.feedback_model}
    return [
        finding
        for role, model in models.items()
        for finding in (_engine(role, model), *_weights(role, model, home, full))
    ]


def _digests(home: Home) -> list[Finding]:
    try:
        known_digests(home)
    except WeightsError as error:
        return [problem("models", str(error), f"rm {quoted(home.model_digests)}")]
    return []


def _engine(role: str, model: LanguageModelSettings) -> Finding:
    match model.engine:
        case EngineKind.http:
            if not model.base_urls:
                return problem(role, "engine = http, and base_urls names no server", "edit base_urls in settings.toml")
            return good(role, f"served over HTTP at {', '.join(model.base_urls)} (not asked)")
        case EngineKind.ray if importlib.util.find_spec("ray") is None:
            return problem(role, "engine = ray, and Ray is not installed", "pip install -e .[ray]")
        case _ if importlib.util.find_spec("vllm") is None:
            return problem(role, "vLLM is not installed", f"{_SETUP}, or on a GPU machine pip install -e .[gpu]")
        case _:
            return good(role, f"served by vLLM, engine {model.engine}")


def _weights(role: str, model: LanguageModelSettings, home: Home, full: bool) -> list[Finding]:
    if model.model == OFFLINE and not (home.models / "offline" / NAME).exists():
        return [problem(role, "the offline model is not prepared yet", "cai setup")]
    is_offline = model.model == OFFLINE
    put_back = f"rm -r {quoted(home.models / 'offline')} && cai setup" if is_offline else "put its files back"
    try:
        weights = locate_weights(model.model, model.revision, home, model.engine == EngineKind.http)
    except MendableError as error:
        remedy = put_back if is_offline else "edit model in settings.toml, or download it"
        return [problem(role, str(error), remedy if isinstance(error, WeightsError) else _SETUP)]
    except (OSError, ValueError) as error:
        return [problem(role, f"the weights cannot be read: {error}", put_back)]
    if wrong := _incomplete(role, model, weights, home, put_back):
        return [wrong]
    findings: list[Finding] = []
    if full and fresh_digest(weights.folder) != weights.digest:
        text = (
            f"{weights.folder}: the files are not those whose hash was taken, yet their times say so: they are damaged"
        )
        findings.append(problem(role, text, put_back))
    if former := former_digests(weights.folder, home):
        were = some_of((one[:16] for one in former), NAMED)
        text = f"{weights.folder} has changed since calls were paid for (it was {were})"
        findings.append(
            warning(
                role, text, "Calls of the model as it was are not found again; put its files back if you want them."
            )
        )
    return findings or [good(role, weights.model_id(model.arithmetic))]


def _incomplete(role: str, model: LanguageModelSettings, weights: Weights, home: Home, put_back: str) -> Finding | None:
    """What is not there of a model, or was cut."""
    if model.adapter:
        try:
            with_adapter(weights, PROJECT / Path(model.adapter).expanduser(), home)
        except (MendableError, OSError) as error:
            return problem(role, str(error), "edit adapter in settings.toml")
    if missing := lacking(weights.folder):
        return problem(role, f"{weights.folder} has no {', no '.join(missing)}", put_back)
    if cut := [file.name for file in sorted(weights.folder.glob("*.safetensors")) if not is_whole(file)]:
        return problem(role, f"{weights.folder}: not as long as their headers say: {some_of(cut, NAMED)}", put_back)
    return None
