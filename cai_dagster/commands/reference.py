"""The reference pages docs/configuration.md and docs/tables.md, made from the models that the program itself uses.

`python -m cai_dagster.commands.reference` (`make docs`) writes both, the checks into docs/monitoring.md, and the map of
folders and tables into docs/concepts.md; a test says when a page is stale. What a setting or a column means stands in
its model and nowhere else. Environment variables have no model, so they are described here.
"""

import ast
import json
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cai_dagster.checks.declarations import CHECKS
from cai_dagster.checks.settings import CheckSettings
from cai_dagster.profiles import DEFAULT_PROFILE, profiles_of
from cai_dagster.project import CHECKOUT, SETTINGS_FILE
from cai_dagster.settings import Settings, load_settings

if TYPE_CHECKING:
    from cai_dagster.tables.table import Column, Table

DOCS = CHECKOUT / "docs"

ENVIRONMENT = {
    "CAI_PROJECT": "The project folder: constitutions/, prompts/, settings.toml. Where it is not set, the nearest from "
    "the working directory upwards that has them; the checkout, where none has.",
    "CAI_HOME": "The folder of tables, ledger, models and Dagster instance. A relative path counts from the project "
    "folder; `.cai` where it is not set.",
    "CAI_CATALOG": "The PostgreSQL database (`postgresql://user@host/database`) of a catalog of tables that many hosts "
    "share (deploy.md); `catalog.sqlite` in `CAI_HOME` where it is not set. Goes before `catalog` in `[storage]` of "
    "settings.toml.",
    "CAI_LEDGER": "Likewise for the ledger of model calls and `ledger.sqlite`; it may be the same database.",
    "CAI_DATA": "Where the files of tables are: `s3://bucket/prefix`, or a shared folder; `tables` in `CAI_HOME` where "
    "it is not set.",
    "CAI_CHECKPOINTS": "Likewise where complete checkpoints are for all hosts, beside those in `models` of `CAI_HOME`.",
    "AWS_ENDPOINT_URL": "The store of `s3://` places, where it is not Amazon's; `AWS_ENDPOINT_URL_S3` goes before it. "
    "Keys and region come from where AWS's own programs look: environment, files, roles.",
    "AWS_ENDPOINT_URL_S3": "See `AWS_ENDPOINT_URL`.",
    "CAI_PROFILE": "The profile of the settings. Where it is not set, the one that the home was made with; `default` "
    "in a new home (`cai demo` takes `demo`).",
    "CAI_MODEL": "The model of policy and feedback model in place of the profile's (`cai demo --model NAME` sets it). "
    "Where it is not set, the one that the home was made with, if that was made with one.",
    "RANK": "Set by torchrun for each process of a training.",
    "CAI_ON_ALERT": "A command that gets alerts, where the sensors that send them are on (monitoring.md).",
    "CAI_WEBHOOK": 'A web address that gets alerts as `{"text": …}`, likewise.',
    "CAI_PAGES": "Set by `cai ui`: the address at which it serves the pages of reports to this machine.",
    "CAI_API_KEY": "The API key of HTTP servers; `api_key_variable` of `policy` and `feedback_model` may name another "
    "variable.",
    "DAGSTER_HOME": "Set for every program that `cai` starts, to `$CAI_HOME/dagster`. Set it yourself where you call "
    "`dagster` yourself.",
    "CUDA_VISIBLE_DEVICES": "The GPUs that a run uses, and locks for the whole machine; all where it is not set.",
    "HF_HUB_OFFLINE": "`1` where it is not set: nothing is downloaded. `0` lets a run download the models it names.",
    "HF_HUB_DISABLE_TELEMETRY": "`1` where it is not set.",
    "DO_NOT_TRACK": "`1` where it is not set.",
    "VLLM_NO_USAGE_STATS": "`1` where it is not set.",
    "VLLM_LOGGING_LEVEL": "`ERROR` where it is not set.",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "Set, always: `1` where vLLM is in a process of its own, else `0`.",
    "VLLM_CPU_KVCACHE_SPACE": "Set to `cpu_cache_gib`, always.",
    "RAY_USAGE_STATS_ENABLED": "Set to `0`, always.",
    "TOKENIZERS_PARALLELISM": "`false` where it is not set.",
    "TQDM_DISABLE": "`1` for what `cai` does and starts, where it is not set: progress bars would bury the log.",
    "TRANSFORMERS_VERBOSITY": "`error`, likewise.",
    "PYTHONWARNINGS": "`ignore`, likewise.",
}

FOUND_OFTEN = 3  # what so many sections share is described once
_Row = tuple[str, ...]
_FIELD = re.compile(r"'(\w+)':")
_WRITTEN = "<!-- written by `make docs` from {source}; edit that -->"
_CONFIGURATION = """\
# Configuration

Every setting, with its default and what the profiles change. A setting is given in one of two places:

* `settings.toml` of the project, for every run: it holds what differs from the defaults, which come with the package
  (`cai_dagster/project_files/defaults.toml`). `[default.<section>]` changes them for every profile,
  `[<profile>.<section>]` for one; `extend = "demo"` in `[<profile>]` builds a profile on another than `default`. The
  first run of a home notes its profile; `status`, `plan`, `ui` and later runs use it. `--profile` or `CAI_PROFILE`
  names another, `cai setup --profile demo` changes it.
* the launchpad of the Dagster UI, for one run: an asset's own settings below `ops: <asset>: config:`, those of
  `policy` and `feedback_model` below `resources: <name>: config:`. Only what differs from the profile need be named.

`[storage]` at the top of settings.toml is of no profile: it names what [several hosts](deploy.md) share.

A wrong name, a wrong type or a value out of range is refused when the project is loaded, with file, profile, section
and setting.
"""
_ENVIRONMENT = """\
## Environment variables

What the program reads from its environment, or sets there for the libraries it uses. These read more of their own,
such as `HF_HOME` or `CUDA_VISIBLE_DEVICES`.
"""
_TABLES = """\
# Tables

The data dictionary of the lake: every table, what a row of it is, its key and its columns. Types are those of polars.
The rules are checked when a row is written; a row that breaks one goes to [`rejected_rows`](#rejected_rows) with the
reason.

A table *of a version* holds the rows of all constitution versions, and materializing a version replaces that version's
rows. An *unversioned* table is replaced whole. To an *appended* table rows are only added.
"""


def configuration_page() -> str:
    """docs/configuration.md: every section of the settings, and the environment variables."""
    values = _settings_by_profile()
    sections = {name: cast("type[BaseModel]", field.annotation) for name, field in Settings.model_fields.items()}
    parts = [
        _WRITTEN.format(source="cai_dagster/settings.py and cai_dagster/project_files/defaults.toml"),
        _CONFIGURATION,
    ]
    shared = _found_often([[*map(_setting, model.model_fields.items())] for model in sections.values()])
    parts.append(f"## Settings of several sections\n\n{_grid(('setting', 'values', 'meaning'), shared)}")
    described: dict[str, dict[str, BaseModel]] = {}
    for name, model in sections.items():
        found = {profile: cast("BaseModel", getattr(settings, name)) for profile, settings in values.items()}
        parts.append(f"## `{name}`\n\n{_docstring(model)}\n")
        alike = next((other for other, of_profiles in described.items() if _same_model(of_profiles, found)), None)
        described[name] = found
        if name == "checks":
            parts.append(
                "Bounds and severity of each check, by table and version: [monitoring](monitoring.md#bounds).\n"
            )
        elif alike:
            parts.append(_differences(alike, described[alike], found))
        else:
            parts.append(_section(model, found, shared))
    variables = [(f"`{name}`", meaning) for name, meaning in ENVIRONMENT.items()]
    return "\n".join([*parts, _ENVIRONMENT, _grid(("variable", "meaning"), variables)])


def _same_model(one: dict[str, BaseModel], other: dict[str, BaseModel]) -> bool:
    """Whether both are of one kind, and the profiles change the same of it."""

    def changes(section: dict[str, BaseModel]) -> list[dict[str, Any]]:
        default = section[DEFAULT_PROFILE].model_dump()
        return [
            {name: value for name, value in changed.model_dump().items() if value != default[name]}
            for changed in section.values()
        ]

    return type(one[DEFAULT_PROFILE]) is type(other[DEFAULT_PROFILE]) and changes(one) == changes(other)


def _differences(alike: str, described: dict[str, BaseModel], found: dict[str, BaseModel]) -> str:
    """How a section of a kind that has been described differs from that."""
    own, theirs = found[DEFAULT_PROFILE].model_dump(), described[DEFAULT_PROFILE].model_dump()
    differ = [f"`{name}` is {_literal(value)}" for name, value in own.items() if value != theirs[name]]
    but = f", but {', '.join(differ)}" if differ else ""
    return f"Settings, defaults and what profiles change are those of [`{alike}`](#{alike}){but}.\n"


def tables_page() -> str:
    """docs/tables.md: every table of the lake."""
    from cai_dagster.tables.registry import TABLES

    heads = ("column", "type", "rules", "meaning")
    rows_of: dict[str, list[_Row]] = {}
    alike_of: dict[str, str] = {}
    for name, table in TABLES.items():
        rows = [_described(column, table) for column in table.columns]
        alike = next((one for one, theirs in rows_of.items() if rows[: len(theirs)] == theirs), None)
        if alike:
            alike_of[name] = alike
        rows_of[name] = rows
    own_of = {name: rows[len(rows_of[alike_of[name]]) if name in alike_of else 0 :] for name, rows in rows_of.items()}
    shared = _found_often(own_of.values())
    parts = [_WRITTEN.format(source="the declarations in cai_dagster/tables/"), _TABLES]
    parts.append(f"## Columns of several tables\n\n{_grid(heads, shared)}")
    for name, table in TABLES.items():
        rows = own_of[name]
        parts.append(f"## `{name}`\n\n{table.row}\n\n{_kind(table)}\n")
        if name in alike_of:
            more = ", and these:" if rows else "."
            parts.append(f"It has the columns of [`{alike_of[name]}`](#{alike_of[name]}){more}\n")
        if above := [row[0] for row in rows if row in shared]:
            parts.append(f"As above: {', '.join(above)}.\n")
        if own := [row for row in rows if row not in shared]:
            parts.append(_grid(heads, own))
    return "\n".join(parts)


def _found_often(groups: Iterable[Sequence[_Row]]) -> list[_Row]:
    """The rows that at least FOUND_OFTEN groups have, in the order in which they come first; of one name the first."""
    counts = Counter(row for rows in groups for row in rows)
    often: dict[str, _Row] = {}
    for row, count in counts.items():
        if count >= FOUND_OFTEN:
            often.setdefault(row[0], row)
    return [*often.values()]


def monitoring_page() -> str:
    """docs/monitoring.md as it is, with the table of the checks and the bounds of each profile."""
    values = {profile: settings.checks for profile, settings in _settings_by_profile().items()}
    default = values[DEFAULT_PROFILE]
    others = [profile for profile, found in values.items() if found != default]
    rows: list[Sequence[str]] = []
    for name in type(default).model_fields:
        checks = [check for check in CHECKS if check.name == name]
        advice = checks[0].advice.replace(f"'{checks[0].table}'", "'TABLE'")
        tables = "every table with a check" if name == "drift" else ", ".join(f"`{check.table}`" for check in checks)
        bounds = [_bounds(default.of(name))]
        bounds += [
            _bounds(values[other].of(name)) if values[other].of(name) != default.of(name) else "" for other in others
        ]
        rows.append((f"`{name}`", tables, checks[0].description, *bounds, advice))
    heads = ("check", "of", "measures", "default", *(f"`{other}`" for other in others), "what to do")
    return _with_part("monitoring.md", "checks", _grid(heads, rows))


def concepts_page() -> str:
    """docs/concepts.md as it is, with its map: the folders from the ground up, and the tables in the graph's order."""
    from cai_dagster.tables.registry import TABLES

    folders = [(f"`{place}`", _first_sentence(file)) for place, file in floors()]
    modules = {file: file.read_text(encoding="utf-8") for file in sorted((CHECKOUT / "assets").glob("*.py"))}
    tables: list[Sequence[str]] = []
    for table in TABLES.values():
        made = [file.name for file, text in modules.items() if re.search(rf"^def {table.name}\(", text, re.MULTILINE)]
        asset = f"[`assets/{made[0]}`](../assets/{made[0]})" if made else ""
        read = ", ".join(f"`{name}`" for name in table.reads)
        tables.append((f"[`{table.name}`](tables.md#{table.name})", table.maker.value, read, asset))
    page = _with_part("concepts.md", "folders", _grid(("folder", "what it holds"), folders))
    return _with_part("concepts.md", "tables", _grid(("table", "made", "from", "asset"), tables), page)


def floors() -> list[tuple[str, Path]]:
    """The folders and modules from the ground up, as the layers of import-linter in pyproject.toml have them."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
    (layers,) = [one["layers"] for one in project["tool"]["importlinter"]["contracts"] if "layers" in one]
    modules = [module.strip() for layer in reversed(layers) for module in layer.split("|")]
    places = [CHECKOUT / module.replace(".", "/") for module in modules]
    files = [place / "__init__.py" if place.is_dir() else place.with_suffix(".py") for place in places]
    shown = [str((file.parent if file.name == "__init__.py" else file).relative_to(CHECKOUT)) for file in files]
    return [(f"{one}/" if not one.endswith(".py") else one, file) for one, file in zip(shown, files, strict=True)]


def _first_sentence(file: Path) -> str:
    """Of a module's docstring, what stands before the first full stop."""
    documented = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return re.split(r"(?<=\.)\s", " ".join(documented.split()), maxsplit=1)[0]


def _with_part(name: str, part: str, text: str, page: str | None = None) -> str:
    """A page of docs/ in which what stands between the marks of a part is replaced."""
    page = page if page is not None else (DOCS / name).read_text(encoding="utf-8")
    begin, end = f"<!-- {part}: written by `make docs` -->", f"<!-- end of {part} -->"
    before, rest = page.split(begin, 1)
    return f"{before}{begin}\n{text}{end}{rest.split(end, 1)[1]}"


def pages() -> dict[str, str]:
    """The text of each page, by its file name in docs/."""
    return {
        "configuration.md": configuration_page(),
        "tables.md": tables_page(),
        "monitoring.md": monitoring_page(),
        "concepts.md": concepts_page(),
    }


def _settings_by_profile() -> dict[str, Settings]:
    return {profile: load_settings(SETTINGS_FILE, profile) for profile in profiles_of(SETTINGS_FILE)}


def _setting(named: tuple[str, FieldInfo]) -> _Row:
    """A setting's name, what it may be, and what it means."""
    name, field = named
    return f"`{name}`", _allowed(field), field.description or ""


def _section(model: type[BaseModel], values: Mapping[str, BaseModel], shared: Sequence[_Row]) -> str:
    """The settings of a section; a column for each profile that changes one of them."""
    default = values[DEFAULT_PROFILE]
    others = [profile for profile, found in values.items() if found != default]
    above: list[str] = []
    own: list[tuple[_Row, str, dict[str, str]]] = []  # the setting, its default, what profiles change it to
    for name, field in model.model_fields.items():
        row, value = _setting((name, field)), getattr(default, name)
        given = {profile: getattr(values[profile], name) for profile in others}
        changed = {profile: _literal(other) for profile, other in given.items() if other != value}
        if row in shared:
            among = "".join(f" ({profile}: {other})" for profile, other in changed.items())
            above.append(f"{row[0]} {_literal(value)}{among}")
        else:
            own.append((row, _literal(value), changed))
    shown = [profile for profile in others if any(profile in changed for _, _, changed in own)]
    heads = ("setting", "values", "default", *(f"`{profile}`" for profile in shown), "meaning")
    rows = [
        (name, allowed, value, *(changed.get(profile, "") for profile in shown), meaning)
        for (name, allowed, meaning), value, changed in own
    ]
    parts = [f"As above: {', '.join(above)}.\n"] if above else []
    return "\n".join([*parts, *([_grid(heads, rows)] if rows else [])])


def _bounds(check: CheckSettings) -> str:
    """`at most 0.05: ERROR; v2: at most 0.1: ERROR`"""
    held = [f"{table}: {_held(check.bound_of(table))}" for table in check.tables]
    held += [f"{version}: {_held(check.bound_of('', version))}" for version in check.versions]
    return "; ".join([_held(check), *held])


def _held(check: CheckSettings) -> str:
    return f"{check.bounds}: {check.severity}"


def _allowed(field: FieldInfo) -> str:
    """The type of a setting, with its choices or its range."""
    kind: Any = field.annotation
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return " ".join(f"`{choice.value}`" for choice in kind)
    name = {"str": "text", "bool": "`true` `false`", "int": "integer", "float": "number", "list[str]": "list of texts"}
    name["dict[str, typing.Any]"] = "table"
    written: str = kind.__name__ if isinstance(kind, type) and kind is not list else str(kind)
    written = str(kind) if str(kind).startswith("list") else written
    limits = [_limit(constraint) for constraint in field.metadata]
    return ", ".join([name.get(written, f"`{written}`"), *filter(None, limits)])


def _limit(constraint: Any) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    for bound, sign in signs.items():
        if hasattr(constraint, bound):
            return f"{sign} {getattr(constraint, bound):,}"
    return "not empty" if getattr(constraint, "min_length", 0) else ""


def _literal(value: Any) -> str:
    """A value as settings.toml has it."""
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def _kind(table: "Table") -> str:
    key = ", ".join(f"`{column}`" for column in table.key)
    kind = "Appended" if table.appended else "Of a version" if table.versioned else "Unversioned"
    if table.forget_by_text:
        kind = "Replaced with the rows that they were meant to stand beside"
    return f"{kind}. Key: {key}."


def _described(column: "Column", table: "Table") -> tuple[str, str, str, str]:
    """Name, type, rules and meaning of a column."""
    rules = [
        *(["may be null"] if column.nullable else []),
        *(["hex digits"] if column.type == "identifier" else []),
        *(["not empty"] if column.not_empty else []),
        *([" ".join(f"`{value}`" for value in column.isin)] if column.isin else []),
        *([f"≥ {column.ge:g}"] if column.ge is not None else []),
        *([f"> {column.gt:g}"] if column.gt is not None else []),
        *([f"≤ {column.le:g}"] if column.le is not None else []),
    ]
    return f"`{column.name}`", f"`{_short(str(table.schema[column.name]))}`", ", ".join(rules), column.description


def _short(kind: str) -> str:
    """A type of polars without what its name says: `List(Struct(role, content))`."""
    return re.sub(r"Struct\(\{(.*?)\}\)", lambda found: f"Struct({', '.join(_FIELD.findall(found[1]))})", kind)


def _docstring(model: type) -> str:
    """The docstring's paragraphs, each in one line."""
    paragraphs = (model.__doc__ or "").strip().split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _grid(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


if __name__ == "__main__":
    for page_name, text in pages().items():
        (DOCS / page_name).write_text(text, encoding="utf-8")
        sys.stdout.write(f"{DOCS / page_name}\n")
