"""
Where jobs run. The only file that knows submitit's executors and Slurm's flags.

    job = submit_local(FinetuneJob(...), folder, num_tasks=4, lock=lock)
    job_id = submit_slurm(FinetuneJob(...), folder, resources)

On Slurm a job is one script and one pickle in one folder, and every start of it, requeued or
chained, runs the same script: the code and the settings of a run are those of its submission. Without
Slurm a job runs on this machine, through submitit's LocalExecutor and our controller (see
jobs/local_controller.py).
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import submitit
from submitit.core.utils import DelayedSubmission
from submitit.local.local import LocalJob

from instruct_core.errors import ConfigError, SlurmError
from jobs.after_step import JOB_IDS, LOG, SCRIPT
from jobs.reports import FOLDER, START
from jobs.slurm import clean_environment, run_client
from launch.console.lines import say
from launch.flags.parse import Cluster
from launch.local_runs import LocalRun, RunLock

# submitit counts warnings as time-outs and gives up after so many (on limits up to 10 minutes every
# signal is one); our own rules decide instead.
UNLIMITED = 10**6
CODE = "code"  # folder of a job with the code it runs


def choose_cluster(asked: Cluster) -> Literal["slurm", "local"]:
    """
    Return where jobs run, and say it in one line where it was not typed.

    Raises:
        ConfigError: Slurm was typed and is not here.
    """
    if asked == "local":
        return asked
    if shutil.which("sbatch") is None:
        if asked == "slurm":
            raise ConfigError("--cluster slurm needs sbatch on PATH, and there is none. Log in to a "
                              "node of the cluster, or use --cluster local.")  # fmt: skip
        say("Cluster: local executor (no sbatch on this machine)")
        return "local"
    try:
        run_client(["sinfo", "-h", "-o", "%P"])
    except SlurmError as error:
        if asked == "slurm":
            raise ConfigError(f"--cluster slurm cannot be used: {error}") from None
        say(f"Cluster: local executor (Slurm is installed and does not answer: {error})")
        return "local"
    return "slurm"


@dataclass(frozen=True)
class Resources:
    """What a job asks of Slurm: one process a task, and one task a GPU where there are GPUs."""

    name: str
    minutes: int
    partition: str
    nodes: int = 1
    tasks_per_node: int = 1
    gpus_per_node: int = 0
    cpus_per_task: int = 1
    mem_mb: int | None = None  # per node
    lead_seconds: int = 120  # from Slurm's warning to its kill
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    after: tuple[str, ...] = ()  # job ids that must have ended well
    array: str | None = None  # task numbers as sbatch takes them: 0-15%8
    first_task: int = 0  # number that array task 0 stands for


def batch_script(folder: Path, resources: Resources) -> str:
    """Return the script that every start of a job runs."""
    executor = submitit.SlurmExecutor(folder)
    more = {"requeue": True, "chdir": str(folder)}
    for name in ("account", "qos", "constraint", "exclude", "array"):
        if (value := getattr(resources, name)) is not None:
            more[name] = value
    if resources.after:
        more["dependency"] = "afterok:" + ":".join(resources.after)
    executor.update_parameters(
        job_name=resources.name,
        wckey=None,  # submitit's own is unknown to clusters that check them
        time=resources.minutes,
        partition=resources.partition,
        nodes=resources.nodes,
        ntasks_per_node=resources.tasks_per_node,
        gpus_per_node=resources.gpus_per_node or None,
        cpus_per_task=resources.cpus_per_task,
        mem=f"{resources.mem_mb}MB" if resources.mem_mb else None,
        signal_delay_s=resources.lead_seconds,
        stderr_to_stdout=True,
        additional_parameters=more,
        # One rank that fails ends the others: they would wait for it in a collective.
        srun_args=["--kill-on-bad-exit=1", f"--cpus-per-task={resources.cpus_per_task}"],
        setup=_before(folder, resources),
        teardown=[
            "status=$?",
            "trap '' TERM  # a requeue ends the script; what follows must come to its end",
            f"[ $status -eq 0 ] || {shlex.quote(sys.executable)} -m jobs.after_step",
            "exit $status",
        ],
    )
    if resources.array is not None:
        executor.parameters["map_count"] = 1  # names the logs by array task; `array` says which
    return str(executor._make_submission_file_text(executor._submitit_command_str, ""))


def _before(folder: Path, resources: Resources) -> list[str]:
    """Return what a start does before its tasks do."""
    place, is_array = shlex.quote(str(folder)), resources.array is not None
    job = "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}" if is_array else "${SLURM_JOB_ID}"
    task = f"/task-$(printf %05d $(({resources.first_task} + SLURM_ARRAY_TASK_ID)))"
    return [
        # Not the folder it was typed in; modules of the cluster stay behind ours.
        f"export PYTHONPATH={place}/{CODE}${{PYTHONPATH:+:$PYTHONPATH}} PYTHONSAFEPATH=1",
        f"export {START}=$(printf %010d-%04d $SLURM_JOB_ID ${{SLURM_RESTART_COUNT:-0}})",
        f"export {FOLDER}={place}{task if is_array else ''} {LOG}={place}/{job}_0_log.out",
        f"export {SCRIPT}={place}/{_script_name(resources)} INSTRUCT_LEAD={resources.lead_seconds}",
        # What a kill left behind would block the next re-pickle and the result (utils.py:182), and
        # a job that submitit has moved its pickle to after sbatch could start before it is there.
        f'rm -f {place}/{job}_*.save_tmp "${FOLDER}/failed.json"',
        f"cp {place}/{_pickle_name(resources)} {place}/{job}_submitted.pkl",
        f'echo "=== start ${START} on $SLURM_JOB_NODELIST at $(date -u +%FT%TZ)"',
    ]


def _script_name(resources: Resources) -> str:
    return f"job-{resources.first_task:07d}.sh" if resources.array else "job.sh"


def _pickle_name(resources: Resources) -> str:
    return f"job-{resources.first_task:07d}.pkl" if resources.array else "job.pkl"


def test_submission(folder: Path, resources: Resources) -> str:
    """
    Have Slurm judge a job without queueing it; return when and where it would start.

    Raises:
        ConfigError: It would be refused; says why.
    """
    text = batch_script(folder, resources)
    # The folder is not there yet, and the test writes nothing.
    text = "\n".join(line for line in text.splitlines() if "--chdir" not in line)
    try:
        said = run_client(["sbatch", "--test-only"], clean_environment(), stdin=text)
    except SlurmError as error:
        raise ConfigError(
            f"Slurm refuses this job in partition {resources.partition}: {error}. See it: --dry-run"
        ) from None
    return said.partition(" to start at ")[2].partition(" ")[0]


def submit_slurm(function: Callable[[], Any], folder: Path, resources: Resources) -> str:
    """
    Queue a job, or an array of them, whose folder is there; return its id.

    Raises:
        ConfigError: Slurm refuses it; says why.
    """
    submission = DelayedSubmission(function)
    submission.set_timeout(resources.minutes, UNLIMITED)
    submission.dump(folder / _pickle_name(resources))
    script = folder / _script_name(resources)
    script.write_text(batch_script(folder, resources))
    try:
        said = run_client(["sbatch", "--parsable", str(script)], clean_environment())
    except SlurmError as error:
        raise ConfigError(
            f"Job {resources.name} was not queued: {error} See what is: squeue -n {resources.name}"
        ) from None
    job_id = said.strip().split(";")[0]
    with (folder / JOB_IDS).open("a") as file:
        file.write(f"{job_id}\n")
    return job_id


def freeze_code(folder: Path) -> None:
    """Copy the code that a job runs into its folder: a requeue must not run edited files."""
    here = Path(__file__).resolve().parent.parent
    for package in ("jobs", "instruct_core"):
        shutil.copytree(
            here / package,
            folder / CODE / package,
            ignore=lambda _, names: (
                [n for n in names if "." in n and not n.endswith(".py")] + ["__pycache__"]
            ),
        )


class _LocalExecutor(submitit.LocalExecutor):  # type: ignore[misc]  # submitit is not typed
    """submitit's local executor, with our controller in place of its own."""

    def __init__(self, folder: Path, code: Path, num_tasks: int, lock: RunLock | None) -> None:
        super().__init__(folder, max_num_timeout=UNLIMITED)
        self.update_parameters(tasks_per_node=num_tasks, timeout_min=UNLIMITED)
        self._code, self._lock = code, lock

    def _submit_command(self, command: str) -> LocalJob[Any]:
        env = clean_environment() | {
            "SUBMITIT_EXECUTOR": "local",
            "SUBMITIT_LOCAL_COMMAND": command,
            "SUBMITIT_LOCAL_NTASKS": str(self._num_tasks()),
            "SUBMITIT_LOCAL_NODEID": "0",
            "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
            "SUBMITIT_PREEMPT_SIGNAL": "USR2",  # whose handler StopSignal hands over to
            "PYTHONPATH": os.pathsep.join(
                filter(None, (str(self._code / CODE), os.environ.get("PYTHONPATH")))
            ),
            "PYTHONSAFEPATH": "1",
        }
        with (self.folder / "controller.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "jobs.local_controller", str(self.folder)],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=[self._lock.fd] if self._lock else [],
            )
        tasks = list(range(self._num_tasks()))
        return LocalJob(folder=self.folder, job_id=str(process.pid), process=process, tasks=tasks)


def submit_local(
    function: Callable[[], Any],
    folder: Path,
    num_tasks: int,
    lock: RunLock | None = None,
    code: Path | None = None,
) -> LocalRun:
    """
    Start a job of ``num_tasks`` processes in a fresh folder, and return it.

    Args:
        function: What every task calls; it is pickled.
        folder: Of the job.
        num_tasks: Processes.
        lock: Held as long as the job lives.
        code: Folder with the frozen code, if not the job's own.
    """
    job = _LocalExecutor(folder, code or folder, num_tasks, lock).submit(function)
    process = job._process
    assert process is not None, "submitit starts the controller at once"
    return LocalRun(folder, process.pid, process)


def array_text(tasks: Sequence[int]) -> str:
    """Return numbers as sbatch's --array takes them: 0-3,7."""
    parts: list[list[int]] = []
    for task in sorted(tasks):
        if parts and task == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], task]
        else:
            parts.append([task])
    return ",".join("-".join(map(str, part)) for part in parts)


def num_gpus() -> int:
    """Return how many NVIDIA GPUs a job here would see; asks the driver, not torch."""
    import pynvml

    try:
        pynvml.nvmlInit()
        count = int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    listed = [name for name in (visible or "").split(",") if name.strip() not in ("", "-1")]
    return count if visible is None else min(count, len(listed))


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))
