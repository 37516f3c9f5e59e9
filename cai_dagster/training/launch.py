"""Training in one process or in several, one a GPU: what is to be trained, and how it is handed to the others.

With `processes` = 1 a training runs here, unless vLLM draws its completions: what vLLM takes of a GPU is given back
when its process ends. Else `torchrun` starts `worker` that many times; the workers are told what to train through a
file, report through their output, and end with this process, whatever ends it.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import msgspec

from cai_dagster.models.chat_options import ChatOptions
from cai_dagster.processes import decoded, encoded
from cai_dagster.training.checkpoints import TrainingOutcome
from cai_dagster.training.policy_optimization import RewardReading
from cai_dagster.training.settings import DpoModelSettings, RlaifModelSettings, TrainingSettings
from cai_dagster.training.token_files import TokenFile

Report = Callable[[str], None]
REPORTED, FAILED = "report: ", "failure: "  # how a line of the workers' output begins: for the log, or why one ends
JOB, OUTCOME = "job.msgpack", "outcome.json"
LAST_LINES = 20  # of the workers' output, for the message of a failure


class TrainingProcessError(RuntimeError):
    """A process of a training failed; the message has its reason, or the end of its output."""


@dataclass(frozen=True)
class SupervisedTraining:
    """As `trainers.train_supervised`."""

    base: Path
    rows: TokenFile
    held_out: TokenFile | None
    settings: TrainingSettings
    options: ChatOptions
    folder: Path

    def run(self, report: Report) -> TrainingOutcome:
        """Train in this process."""
        from cai_dagster.training.trainers import train_supervised

        return train_supervised(self.base, self.rows, self.held_out, self.settings, self.options, report, self.folder)


@dataclass(frozen=True)
class RewardModelTraining:
    """As `trainers.train_reward_model`."""

    base: Path
    pairs: TokenFile
    settings: TrainingSettings
    options: ChatOptions
    folder: Path

    def run(self, report: Report) -> TrainingOutcome:
        """Train in this process."""
        from cai_dagster.training.trainers import train_reward_model

        return train_reward_model(self.base, self.pairs, self.settings, self.options, report, self.folder)


@dataclass(frozen=True)
class DpoTraining:
    """As `policy_trainers.train_dpo`."""

    base: Path
    pairs: TokenFile
    settings: DpoModelSettings
    options: ChatOptions
    folder: Path

    def run(self, report: Report) -> TrainingOutcome:
        """Train in this process."""
        from cai_dagster.training.policy_trainers import train_dpo

        return train_dpo(self.base, self.pairs, self.settings, self.options, report, self.folder)


@dataclass(frozen=True)
class RlaifTraining:
    """As `policy_trainers.train_rlaif`, rewarded by the checkpoint `reward_model`, which reads as `reading` says."""

    base: Path
    prompts: TokenFile
    reward_model: Path
    reading: RewardReading
    settings: RlaifModelSettings
    options: ChatOptions
    folder: Path

    def run(self, report: Report) -> TrainingOutcome:
        """Train in this process."""
        from cai_dagster.training.policy_trainers import reward_of_checkpoint, train_rlaif

        reward = reward_of_checkpoint(self.reward_model, self.reading, self.options)
        return train_rlaif(self.base, self.prompts, reward, self.settings, self.options, report, self.folder)


Training = SupervisedTraining | RewardModelTraining | DpoTraining | RlaifTraining
KINDS: dict[str, type[Training]] = {kind.__name__: kind for kind in get_args(Training)}


def train(training: Training, report: Report) -> TrainingOutcome:
    """Train in as many processes as the settings say. Raises TrainingProcessError where one of several fails."""
    with_vllm = isinstance(training, RlaifTraining) and training.settings.draws_with_vllm
    if training.settings.processes == 1 and not with_vllm:
        return training.run(report)
    with tempfile.TemporaryDirectory(prefix="training-", dir=training.folder.parent) as job:
        write_job(Path(job), training)
        _run_workers(Path(job), training.settings.processes, report)
        return msgspec.json.decode((Path(job) / OUTCOME).read_bytes(), type=TrainingOutcome)


def write_job(job: Path, training: Training) -> None:
    """Write what is to be trained where the workers read it."""
    (job / JOB).write_bytes(encoded((type(training).__name__, training)))


def read_job(job: Path) -> Training:
    """What is to be trained."""
    kind, values = decoded((job / JOB).read_bytes(), tuple[str, msgspec.Raw])
    return decoded(values, KINDS[kind])


def _run_workers(job: Path, processes: int, report: Report) -> None:
    """Start the workers, pass their reports on, and leave none behind."""
    # What `accelerate launch` starts on GPUs; on a CPU that starts one process only.
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [*launcher, "-m", "cai_dagster.training.worker"]
    reasons: list[str] = []
    last: deque[str] = deque(maxlen=LAST_LINES)
    with subprocess.Popen(  # noqa: S603
        [*command, str(job)],
        stdin=subprocess.PIPE,  # its end tells the workers that this process has ended
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as workers:
        try:
            for line in workers.stdout or ():
                if line.startswith(REPORTED):
                    report(line.removeprefix(REPORTED).rstrip("\n"))
                elif line.startswith(FAILED):
                    reasons.append(line.removeprefix(FAILED).rstrip("\n"))
                else:
                    last.append(line)
            failed = workers.wait() != 0
        finally:
            if workers.poll() is None:
                os.killpg(workers.pid, signal.SIGKILL)
    if failed:
        reason = reasons[0] if reasons else f"its output ends with\n{''.join(last)}"
        raise TrainingProcessError(f"a process of the training failed: {reason}")
