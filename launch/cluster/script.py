"""
What a job asks of Slurm, and the batch script that every start of it runs.

    text = batch_script(folder, Resources("instruct-r", minutes=60, partition="gpu"))

On Slurm a job is one script and one pickle in one folder, and every start of it, requeued or
chained, runs the same script: the code and the settings of a run are those of its submission.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import submitit

from jobs.bad_nodes import BAD_NODES
from jobs.job_folder import (
    FOLDER,
    INSIDE,
    LEAD,
    LEFT_OUT,
    LOG,
    SCRIPT,
    SETUP_ENDED,
    SPARE_NODES,
    SRUN_SAID,
    START,
    TOLD_TO_END,
)
from jobs.slurm import TOKEN
from jobs.survival.comeback import ENDED_WELL, FOLLOWED, STARTS_HERE
from jobs.survival.crash import LOG_OF_RANK_0
from jobs.survival.exclusion import BAD_AT_LAUNCH
from launch.cluster.bad_nodes import record
from launch.cluster.container import Container
from launch.cluster.frozen_code import CODE
from launch.cluster.machine import THREADS
from launch.flags.sbatch import left_out, options_of

WARNINGS_ARE_NOTED = (  # one ends the ranks at most, not the script, as `scancel --full` would
    f"trap 'export {TOLD_TO_END}=1' TERM; trap : USR1 USR2"
)
WITHOUT = (
    "--exclude=left-out"  # stands for the nodes that the ranks do without, known on the node only
)
# In the log.
NO_START = "=== not started: this job has finished, and Slurm or somebody has requeued it"
PATIENT = "jobs.patient"
COMEBACK_PAUSE_SECONDS = 30  # before what brings a job back is tried again
LOG_PAUSE_SECONDS = 5  # before a log that cannot be opened is opened again
OF_A_RANK = f'"${{{LOG}%{LOG_OF_RANK_0}}}_${{SLURM_PROCID}}_log.out"'


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
    gpu_type: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    bad_nodes: tuple[str, ...] = ()  # those of them that are excluded as long as they are bad
    clusters: str | None = None
    sbatch: tuple[str, ...] = ()  # more options, as launch/flags/sbatch.py reads them
    setup: tuple[str, ...] = ()  # lines of shell, before the ranks
    container: Container | None = None  # that the ranks run in
    spare_nodes: int = 0  # beside `nodes`, for one that turns out to be at fault
    after: tuple[str, ...] = ()  # job ids that must have ended well
    array: str | None = None  # task numbers as sbatch takes them: 0-15%8
    first_task: int = 0  # number that array task 0 stands for
    variables: tuple[str, ...] = ()  # of the environment, that stand for flags: SBATCH_QOS=high

    @property
    def place(self) -> str:
        """Its partition, and what nobody has typed, for messages."""
        given = f" ({', '.join(self.variables)})" if self.variables else ""
        return f"partition {self.partition}{given}"

    @property
    def gpus(self) -> str | None:
        """GPUs of a node as sbatch takes them: 4, a100:4; None for none."""
        if not self.gpus_per_node:
            return None
        return f"{self.gpu_type}:{self.gpus_per_node}" if self.gpu_type else f"{self.gpus_per_node}"


def batch_script(folder: Path, resources: Resources) -> str:
    """Return the script that every start of a job runs."""
    container = resources.container
    python = container.command(sys.executable, folder) if container else None
    executor = submitit.SlurmExecutor(folder, python=python)
    more = {"requeue": True, "chdir": str(folder), "output": "/dev/null"}
    for name in ("account", "qos", "constraint", "exclude", "array", "clusters"):
        if (value := getattr(resources, name)) is not None:
            more[name] = value
    if resources.after:
        more["dependency"] = "afterok:" + ":".join(resources.after)
    executor.update_parameters(
        job_name=resources.name,
        wckey=None,  # submitit's own is unknown to clusters that check them
        time=resources.minutes,
        partition=resources.partition,
        nodes=resources.nodes + resources.spare_nodes,
        ntasks_per_node=resources.tasks_per_node,
        gpus_per_node=resources.gpus,
        cpus_per_task=resources.cpus_per_task,
        mem=f"{resources.mem_mb}MB" if resources.mem_mb else None,
        signal_delay_s=resources.lead_seconds,
        stderr_to_stdout=True,
        additional_parameters=more,
        srun_args=_srun_arguments(folder, resources),
        setup=_before(folder, resources),
        teardown=_after(),
    )
    if resources.array is not None:
        executor.parameters["map_count"] = 1  # names the logs by array task; `array` says which
    rank = f"{executor.python} -u -m {PATIENT} jobs.survival.rank {shlex.quote(str(folder))}"
    # The script writes such a line into the log of rank 0.
    marked = f'[ "$SLURM_PROCID" = 0 ] || echo "=== start ${START}"'
    opened = shlex.quote(f'{_opens_its_log(OF_A_RANK)}; {marked}; exec "$@"')
    command = f"bash -c {opened} rank {rank}"
    text = str(executor._make_submission_file_text(command, ""))
    text = text.replace(WITHOUT, f"${{{LEFT_OUT}:+--exclude=${LEFT_OUT}}}")
    return with_options(text, resources.sbatch)


def with_options(script: str, words: Sequence[str]) -> str:
    """
    Return a script with more options, and without those that they leave out or replace.

    Args:
        script: With its `#SBATCH` lines at the top.
        words: Options as launch/flags/sbatch.py reads them.
    """
    options = options_of(words)
    gone = left_out(words) | set(options)
    lines = [line for line in script.splitlines() if option_in(line) not in gone]
    more = [
        f"#SBATCH --{key}" + ("" if value is None else f"={shlex.quote(value)}")
        for key, value in options.items()
        if value != ""
    ]
    last = max(number for number, line in enumerate(lines) if option_in(line))
    return "\n".join([*lines[: last + 1], *more, *lines[last + 1 :], ""])


def option_in(line: str) -> str:
    """Return the option of sbatch that a line of a script gives, as in mem; "" for none."""
    found = re.match(r"#SBATCH --([a-z-]+)", line)
    return found[1] if found else ""


def notes_on(resources: Resources) -> list[str]:
    """Return a line on what a job has beyond the usual; [] for nothing."""
    notes = []
    if resources.sbatch:
        words = (f"without --{k}" if v == "" else f"--{k}" + ("" if v is None else f"={v}")
                 for k, v in options_of(resources.sbatch).items())  # fmt: skip
        notes.append(f"sbatch  {', '.join(words)}")
    if resources.setup:
        notes.append(f"Setup   {'; '.join(resources.setup)}")
    if resources.container is not None:
        notes.append(f"Image   {resources.container}")
    return notes


def _srun_arguments(folder: Path, resources: Resources) -> list[str]:
    # One rank that fails ends the others: they would wait for it in a collective.
    arguments = ["--output=all", "--kill-on-bad-exit=1"]  # what is said before a rank has its log
    if "cpus-per-task" not in left_out(resources.sbatch):
        arguments.append(f"--cpus-per-task={resources.cpus_per_task}")
    if resources.spare_nodes:
        ranks = resources.nodes * resources.tasks_per_node
        arguments += [f"--nodes={resources.nodes}", f"--ntasks={ranks}", WITHOUT]
    return [*arguments, *(resources.container.srun(folder) if resources.container else ())]


def _before(folder: Path, resources: Resources) -> list[str]:
    """Return what a start does before its tasks do; its end is `_after`."""
    place, is_array = shlex.quote(str(folder)), resources.array is not None
    job = "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}" if is_array else "${SLURM_JOB_ID}"
    log = f"{place}/{job}{LOG_OF_RANK_0}"
    task = f"/task-$(printf %05d $(({resources.first_task} + SLURM_ARRAY_TASK_ID)))"
    return [
        WARNINGS_ARE_NOTED,
        f"unset {TOKEN}",  # it may have run out when the job asks Slurm: nodes have a way of their own
        _opens_its_log(log),
        *_setup_lines(resources.setup),
        # Not the folder it was typed in; modules of the cluster stay behind ours.
        f"export PYTHONPATH={place}/{CODE}${{PYTHONPATH:+:$PYTHONPATH}} PYTHONSAFEPATH=1",
        f"export {FOLDER}={place}{task if is_array else ''} {LOG}={log}",
        f"export {SCRIPT}={place}/{script_name(resources)} {LEAD}={resources.lead_seconds}",
        f"export {BAD_NODES}={shlex.quote(str(record() or ''))} "
        f"{BAD_AT_LAUNCH}={','.join(resources.bad_nodes)}",
        *(f"export {name}=${{{name}:-{value}}}" for name, value in THREADS.items()),
        "number=$(printf %010d-%04d $SLURM_JOB_ID ${SLURM_RESTART_COUNT:-0})",
        # A run that has finished has nothing to do in another start: Slurm 24.11 starts a job that was
        # preempted in its grace time once more when it ends well.
        f'if grep -qs \'"state": "finished"\' "${FOLDER}/progress-${{number%-*}}"-*.json; then',
        f'  echo "{NO_START}"; exit 0',
        "fi",
        f"export {SPARE_NODES}={resources.spare_nodes} "
        f"{LEFT_OUT}_FILE=${FOLDER}/left-out-$number {LEFT_OUT}=",
        f"job={place}/{pickle_name(resources)} mine={place}/{job}_submitted.pkl",
        # Once for each start of this allocation: the first, and those after crashes.
        f"for (( {INSIDE} = 0; ; {INSIDE}++ )); do",
        f"export {INSIDE} {START}=$number",
        f"[ ${INSIDE} = 0 ] || {{ {WARNINGS_ARE_NOTED}",
        f"{START}=$number$(printf x%03d ${INSIDE}); }}",
        f'[ ! -s "${LEFT_OUT}_FILE" ] || {LEFT_OUT}=$(cat "${LEFT_OUT}_FILE")',
        # What a kill left behind would block the next re-pickle (utils.py:182), and a job that
        # submitit has moved its pickle to after sbatch could start before it is there.
        f'rm -f {place}/{job}_*.save_tmp "$mine.new" "${FOLDER}/failed.json"',
        # On a full disk the old copy stays, and a first one takes no room.
        'cmp -s "$job" "$mine" || { cp "$job" "$mine.new" && mv -f "$mine.new" "$mine"; } '
        '|| [ -s "$mine" ] || ln -f "$job" "$mine"',
        f'echo "=== start ${START} on $SLURM_JOB_NODELIST at $(date -u +%FT%TZ)"',
    ]


def _opens_its_log(log: str) -> str:
    """
    Return a line that has what comes after it written into a file, as soon as the disk lets us open it.

    Where Slurm is to open it and cannot, a script fails before its first line; of ranks srun says that
    they have ended well, or one that has begun waits for the others.
    """
    wait = f"[ $left = 0 ] || sleep {LOG_PAUSE_SECONDS}"
    return f"for left in {{59..0}}; do exec >> {log} 2>&1 && break; {wait}; done"


def _after() -> list[str]:
    """Return what a start does when its tasks have ended: it asks whether they begin again here."""
    return [
        "status=$?",
        # A requeue ends the script; what follows must come to its end.
        "trap '' TERM USR1 USR2",
        # Python may lie on the very disk whose failure has ended the ranks.
        f"answer=0; export {SRUN_SAID}=$status",
        # srun says 0 too where no rank has begun: Slurm could not open their log.
        f'[ -s "${FOLDER}/progress-${START}.json" ] || [ $status -ne 0 ] || status=1',
        "for left in {19..0}; do",
        "  [ $status -ne 0 ] || break",
        f"  {shlex.quote(sys.executable)} -m {PATIENT} jobs.survival.comeback $left",
        f"  answer=$?; case $answer in 0|{STARTS_HERE}|{ENDED_WELL}) break;; esac",
        f"  [ $left -eq 0 ] || sleep {COMEBACK_PAUSE_SECONDS}",
        "done",
        f"[ $answer = {STARTS_HERE} ] || break",
        "done",
        f"[ $answer != {ENDED_WELL} ] || status=0  # also where a rank has failed after the end",
        f'[ ! -e "${FOLDER}/{FOLLOWED}-${START}" ] || status=0',
        "exit $status",
    ]


def _setup_lines(lines: Sequence[str]) -> list[str]:
    """Return a person's lines, each with a word in the log where it does not end well."""
    written = []
    for line in lines:
        said = shlex.quote(f"{SETUP_ENDED} ")
        written += [line, f'code=$?; [ $code = 0 ] || echo {said}"$code: "{shlex.quote(line)}']
    return written


def script_name(resources: Resources) -> str:
    return f"job-{resources.first_task:07d}.sh" if resources.array else "job.sh"


def pickle_name(resources: Resources) -> str:
    return f"job-{resources.first_task:07d}.pkl" if resources.array else "job.pkl"


def array_text(tasks: Sequence[int]) -> str:
    """Return numbers as sbatch's --array takes them: 0-3,7."""
    parts: list[list[int]] = []
    for task in sorted(tasks):
        if parts and task == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], task]
        else:
            parts.append([task])
    return ",".join("-".join(map(str, part)) for part in parts)
