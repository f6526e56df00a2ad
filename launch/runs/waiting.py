"""
What Slurm's states and reasons mean for a person, and what to do about each.

    for note in notes_on(record):       # expected start 2026-11-28T08:00:00; waits for free nodes ...
        say(note)

Sources: slurm.schedmd.com/job_state_codes.html, slurm.schedmd.com/job_reason_codes.html.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jobs.slurm import JobRecord
from launch.cluster.expected import believable
from launch.cluster.slurm import NEVER_STARTS, NEVER_STARTS_HELP
from launch.console.display import zone

NODES_AWAY = "its nodes are down, drained or reserved: another --partition may be free (sinfo)"
RELEASE = "it is held: scontrol release {job}"
# By the beginning of Slurm's word; the longest that fits counts.
REASONS = {
    "Resources": "waits for free nodes: fewer --nodes, or a shorter --time, may start sooner",
    "Priority": "jobs of higher priority go first: a shorter --time may fit in between",
    "Dependency": "waits for another job",
    "BeginTime": "comes back after a requeue",
    "Cleaning": "its last start is being taken down",
    "JobHeldUser": RELEASE,
    "JobHeldAdmin": "an administrator holds it: ask one",
    "JobHoldMaxRequeue": f"Slurm has started it too often, and {RELEASE}",
    "launch_failed_requeued_held": f"a node could not start it, and {RELEASE}",
    "Licenses": "waits for a licence that is in use",
    "Reservation": "waits for its reservation to begin",
    "ReqNodeNotAvail": NODES_AWAY,
    "Nodes_required_for_job_are_DOWN": NODES_AWAY,
    "PartitionDown": "its partition is down: another --partition, or wait",
    "PartitionInactive": "its partition is inactive: another --partition, or wait",
    "PartitionTimeLimit": "asks for more time than its partition gives: a shorter --time",
    "PartitionNodeLimit": "asks for more nodes than its partition gives: fewer --nodes",
    "PartitionConfig": "asks for more than its partition has: fewer --nodes or --gpus",
    "BadConstraints": "no node is as it asks: another --constraint",
    "InvalidAccount": "its account may not run jobs here: another --account",
    "InvalidQOS": "its QOS may not be used here: another --qos",
    "QOSNotAllowed": "its partition does not take its QOS: another --qos",
    "QOSMaxWall": "asks for more time than its QOS gives: a shorter --time",
    "QOS": "a limit of its QOS is reached: waits for other jobs under it to end, or another --qos",
    "AssocMaxWall": "asks for more time than its account gives: a shorter --time",
    "Assoc": "a limit of its account is reached: waits for other jobs under it to end",
    "MaxJobsPer": "as many jobs as the account may have are running: waits for one to end",
    "JobArrayTaskLimit": "as many tasks as the array may have are running",
    "Prolog": "its nodes are being prepared",
    "BurstBuffer": "waits for its burst buffer",
    "NodeDown": NODES_AWAY,
    "SystemFailure": "Slurm had a failure: it starts again by itself",
}
AGAIN = "the same command goes on from the last save"
# States in which Slurm waits for somebody, and those it ends a job in.
STATES = {
    "SUSPENDED": "its processes are stopped for another job, and go on when that ends",
    "STOPPED": "its processes are stopped (scancel --signal=CONT {job} has them go on)",
    "REQUEUE_HOLD": RELEASE,
    "SPECIAL_EXIT": RELEASE,
    "RESV_DEL_HOLD": f"its reservation was removed, and {RELEASE}",
    "COMPLETING": "is being taken down",
    "CONFIGURING": "its nodes are being started",
    "BOOT_FAIL": f"a node did not start: {AGAIN}",
    "NODE_FAIL": f"a node failed: {AGAIN}",
    "OUT_OF_MEMORY": f"it needed more memory than it had: with more --mem, {AGAIN}",
    "TIMEOUT": f"its time was up before it could come back: {AGAIN}",
    "DEADLINE": f"its deadline has passed: {AGAIN}",
    "PREEMPTED": f"another job took its nodes: {AGAIN}",
    "REVOKED": "another cluster of the federation runs it",
}


def notes_on(record: JobRecord) -> Iterator[str]:
    """Yield what a person should know of a job: why it waits or ended, until when, what to do."""
    job_id = record.job_id.partition("_")[0]
    if record.state != "PENDING":
        if record.state in STATES:
            yield STATES[record.state].format(job=job_id)
        return
    if record.reason == NEVER_STARTS:
        yield NEVER_STARTS_HELP
        return
    if start := expected_start(record):
        yield f"expected start {start} {zone()}"
    fitting = [word for word in REASONS if record.reason.startswith(word)]
    if fitting:
        yield REASONS[max(fitting, key=len)].format(job=job_id)


def waits_for(records: Sequence[JobRecord]) -> str:
    """Return what jobs wait for, until when, and what can be done; "" where none waits."""
    waiting = [record for record in records if record.is_active and not record.is_running]
    told = dict.fromkeys(
        f"{record.state}{f' ({record.reason})' if record.reason not in ('', 'None') else ''}"
        + "".join(f"; {note}" for note in notes_on(record))
        for record in waiting
    )
    return ", ".join(told)


def expected_start(record: JobRecord) -> str:
    """Return when Slurm expects a waiting job to start; "" where nobody knows."""
    if record.state != "PENDING" or record.reason in ("Dependency", NEVER_STARTS):
        return ""  # nobody knows when what it waits for ends
    return believable(record.start)
