"""Whether a run of a version can finish by itself: what would stop it hours later is said before it begins.

It counts rows as a plan does, with the code of the run, asks servers for their lists of models, and loads no model.
"""

import importlib.util
import json
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cai_dagster.checks.settings import ChecksSettings, Severity
from cai_dagster.constitution.constitution import load_constitution
from cai_dagster.constitution.versions import ConstitutionError, file_of_version
from cai_dagster.disk import existing
from cai_dagster.errors import MendableError
from cai_dagster.home import Home
from cai_dagster.models.configured import ConfiguredModel
from cai_dagster.models.settings import EngineKind
from cai_dagster.models.weights import WeightsError
from cai_dagster.plan.cost import CostPlan, TablePlan, plan
from cai_dagster.plan.trainings import TRAININGS
from cai_dagster.project import CONSTITUTIONS, SETTINGS_FILE
from cai_dagster.recipes.settings import PairSource
from cai_dagster.settings import Settings
from cai_dagster.upkeep.findings import Finding, Level, good, problem, some_of, warning

ASK_SECONDS = 5  # a server's list of models
SPARE_BYTES = 2**30  # for tables, ledger, logs
TRAINING_COPIES = 3  # of the weights, in float32 where they were bfloat16: a checkpoint and what it is saved beside

_EDIT = f"edit {SETTINGS_FILE}"


def examine_run(
    home: Home, settings: Settings, versions: Sequence[str], selection: Sequence[str] = ()
) -> list[Finding]:
    """What would stop a run of these versions, and what is well; `selection` as for a plan."""
    findings = _constitutions(versions)
    roles = {"policy": settings.policy, "feedback_model": settings.feedback_model}
    models = {role: ConfiguredModel(**model.model_dump()) for role, model in roles.items()}
    for role, model in models.items():
        findings += [*_template(role, model), *_servers(role, model)]
    findings += _weights_to_train_on(models["policy"], selection)
    if any(finding.level == Level.problem for finding in findings):
        return findings  # nothing can be counted without them
    try:
        made = plan(home, settings, models["policy"], models["feedback_model"], versions, selection)
    except MendableError as error:
        return [*findings, problem("inputs", str(error), "mend what it names")]
    return [
        *findings,
        *_rows(made, settings.checks),
        *_training_rows(made, settings),
        *_unattended(made, settings, models["policy"]),
        *_disk(home, made, models["policy"]),
    ]


def _constitutions(versions: Sequence[str]) -> list[Finding]:
    findings: list[Finding] = []
    for version in versions:
        try:
            constitution = load_constitution(file_of_version(CONSTITUTIONS, version))
        except ConstitutionError as error:
            findings.append(problem("constitution", str(error), "mend the file"))
        else:
            findings.append(good("constitution", f"{version}: {len(constitution.principles)} principles"))
    return findings


def _template(role: str, model: ConfiguredModel) -> list[Finding]:
    try:
        model.chat_format()
    except (MendableError, OSError, ValueError) as error:
        return [problem(role, f"its tokenizer or template cannot be used: {error}", f"{_EDIT}: {role}")]
    return [good(role, f"{model.model}: tokenizer and template are usable")]


def _servers(role: str, model: ConfiguredModel) -> list[Finding]:
    if model.engine != EngineKind.http:
        return []
    if not model.base_urls:
        return [problem(role, "engine = http, and base_urls names no server", f"{_EDIT}: {role}.base_urls")]
    return [_server(role, url, model) for url in model.base_urls]


def _server(role: str, url: str, model: ConfiguredModel) -> Finding:
    """Whether a server answers and lists the model."""
    key = os.environ.get(model.api_key_variable, "").strip()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    request = urllib.request.Request(f"{url.rstrip('/')}/models", headers=headers)  # noqa: S310 - of the settings
    try:
        with urllib.request.urlopen(request, timeout=ASK_SECONDS) as answer:  # noqa: S310
            listed: Mapping[str, Any] = json.load(answer)
        cards: list[Mapping[str, Any]] = listed["data"]
        names = {str(card.get(name)) for card in cards for name in ("id", "root") if card.get(name)}
    except urllib.error.HTTPError as error:
        remedy = f"set {model.api_key_variable}" if error.code in (401, 403) else "look at the server's log"
        return problem(role, f"{url} refuses to list its models: {error.code} {error.reason}", remedy)
    except (OSError, ValueError, KeyError) as error:
        return problem(role, f"{url} does not list its models: {error}", f"start the server, or {_EDIT}: {role}")
    weights = model.served_weights()
    wanted = {model.served_model} if model.served_model else {weights.name, weights.folder.name, str(weights.folder)}
    if not names & wanted:
        text = f"{url} serves {some_of(sorted(names), 5) or 'nothing'}, not {model.served_model or weights.name}"
        return problem(role, text, f"{_EDIT}: {role}.served_model, or serve the model")
    return good(role, f"{url} answers and serves {model.served_model or weights.name}")


def _weights_to_train_on(policy: ConfiguredModel, selection: Sequence[str]) -> list[Finding]:
    """Servers may hold the weights for asking the model; it is trained on this machine."""
    if selection and not set(selection) & set(TRAININGS):
        return []
    try:
        policy.weights()
    except WeightsError as error:
        text = f"models are trained on this machine, where the weights are not: {error}"
        return [problem("unattended", text, f"put them here, or {_EDIT}: policy.model")]
    return []


def _rows(made: CostPlan, checks: ChecksSettings) -> list[Finding]:
    """Tables of which more rows would be set aside than the check allows, or nothing would be left."""
    findings: list[Finding] = []
    for table in made.tables:
        bound = checks.rejected_share.bound_of(table.asset, table.constitution_version)
        reasons = ", ".join(f"{count:,} × {reason}" for reason, count in sorted(table.reasons.items()))
        text = (
            f"{_named(table)}: {table.rejected:,} of {table.rows + table.rejected:,} rows would be set aside: {reasons}"
        )
        remedy = f"mend the cause, or {_EDIT}: checks.rejected_share.tables.{table.asset}"
        if table.rejected and not bound.passes(table.rejected_share) and bound.severity == Severity.ERROR:
            findings.append(problem("rows", text, remedy))
        elif table.rejected:
            findings.append(warning("rows", text, remedy))
        if not (table.rows or table.rejected) and table.asset in ("prompts", "revision_rounds", "response_pairs"):
            findings.append(problem("rows", f"{_named(table)} would have no rows", "add prompts"))
    counted = ", ".join(f"{'' if one.exact else '≤ '}{one.rows:,} {one.asset}" for one in made.tables if one.rows)
    return [*findings, good("rows", counted)] if counted else findings


def _named(table: TablePlan) -> str:
    return f"{table.asset} of {table.constitution_version}" if table.constitution_version else table.asset


def _training_rows(made: CostPlan, settings: Settings) -> list[Finding]:
    """Trainings that would have too few rows."""
    findings: list[Finding] = []
    for one in made.checkpoints:
        setting, minimum = TRAININGS[one.asset].minimum(settings)
        text = f"{one.asset} of {one.constitution_version}: at most {one.most_rows:,} rows to train on"
        if one.most_rows < minimum:
            remedy = f"add prompts, or {_EDIT}: {setting} = {max(1, one.most_rows // 2)} if so little is enough"
            findings.append(problem("training", f"{text}; {setting} asks for {minimum:,}", remedy))
        elif one.exists is None and one.most_rows < 2 * minimum:
            text = f"{text}; {setting} asks for {minimum:,}, and some rows may be set aside"
            findings.append(warning("training", text, f"add prompts, or {_EDIT}: {setting}"))
        else:
            findings.append(good("training", f"{text}; {setting} asks for {minimum:,}"))
    return findings


def _unattended(made: CostPlan, settings: Settings, policy: ConfiguredModel) -> list[Finding]:
    """Who asks a checkpoint that was trained here, where servers do the rest."""
    if policy.engine != EngineKind.http or not made.checkpoints:
        return []
    if settings.response_pairs.source != PairSource.sl_cai_model:
        return []
    if not policy.checkpoints_here:
        text = "response_pairs asks sl_cai_model, which no server serves before it is trained (policy.checkpoints_here)"
        return [warning("unattended", text, f"{_EDIT}: policy.checkpoints_here = true, or serve it when the run stops")]
    if importlib.util.find_spec("vllm") is None:
        text = "sl_cai_model is asked in the run's own process, and vLLM is not installed here"
        return [problem("unattended", text, f"install vLLM, or {_EDIT}: policy.checkpoints_here = false")]
    return [good("unattended", "sl_cai_model is asked in the run's own process, unless a server serves it by then")]


def _disk(home: Home, made: CostPlan, policy: ConfiguredModel) -> list[Finding]:
    """Room for the checkpoints that would be trained."""
    new = [one for one in made.checkpoints if not one.exists]
    weights = _bytes_in(policy.weights().folder) if new else 0
    needed = SPARE_BYTES + TRAINING_COPIES * weights * len(new)
    free = shutil.disk_usage(existing(home.root)).free
    text = f"{free / 2**30:,.1f} GiB free, about {needed / 2**30:,.1f} GiB needed for {len(new)} new checkpoints"
    return [good("disk", text) if free > needed else problem("disk", text, f"free some at {existing(home.root)}")]


def _bytes_in(folder: Path) -> int:
    measure: Callable[[Path], int] = lambda file: file.stat().st_size  # noqa: E731
    return sum(map(measure, folder.glob("*.safetensors")))
