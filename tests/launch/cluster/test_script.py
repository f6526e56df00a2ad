"""The batch script, run by bash with clients that are a few lines of shell."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from jobs.job_folder import Progress, place_of, write_progress
from jobs.survival.comeback import ENDED_WELL
from launch.cluster.container import Container
from launch.cluster.script import Resources, batch_script
from tests.conftest import HANGS_SECONDS, wait_for
from tests.launch.cluster.conftest import Node

# As `write_progress` does.
LEAVES_WORD = 'echo {} > "$INSTRUCT_JOB/progress-$INSTRUCT_START.json"'
# What srun does with what comes after its own options.
RUNS_A_RANK = 'while [ "${1#-}" != "$1" ]; do [ "$1" = --output ] && shift; shift; done; exec "$@"'


def test_what_brings_a_job_back_is_asked_again_where_it_cannot_run(node: Node) -> None:
    node.client("python", f"[ $(grep -c comeback {node.folder}/asked) -ge 4 ]")

    assert node.starts().wait(timeout=HANGS_SECONDS) == 3

    assert [line.split()[-1] for line in node.comebacks()] == ["19", "18", "17", "16"]


def test_start_has_forgotten_how_the_last_one_failed_and_ends_all_ranks_with_the_first_that_does(
    node: Node,
) -> None:
    (node.folder / "failed.json").write_text("{}")

    node.starts().wait(timeout=HANGS_SECONDS)

    assert not (node.folder / "failed.json").exists()
    asked = (node.folder / "asked").read_text().splitlines()
    [srun] = [line for line in asked if line.startswith("srun ")]
    assert "--kill-on-bad-exit=1" in srun.split()


def test_what_brings_a_job_back_is_given_up_in_the_end(node: Node) -> None:
    node.client("python", "exit 1")

    assert node.starts().wait(timeout=HANGS_SECONDS) == 3

    assert [line.split()[-1] for line in node.comebacks()] == [str(n) for n in range(19, -1, -1)]


def test_job_that_ended_well_needs_nobody(node: Node) -> None:
    node.client("srun", LEAVES_WORD)

    assert node.starts().wait(timeout=HANGS_SECONDS) == 0

    assert node.comebacks() == []


@pytest.mark.parametrize("signum", ["USR1", "USR2"])
def test_warning_that_reaches_the_script_too_is_for_the_ranks_to_answer(
    node: Node, signum: str
) -> None:
    """As `scancel --full --signal` sends it; what the script starts can still be ended by it."""
    node.client("srun", f"{LEAVES_WORD}; kill -{signum} $PPID; kill -{signum} $$; sleep 60")

    assert node.starts().wait(timeout=HANGS_SECONDS) == 128 + signal.Signals[f"SIG{signum}"]

    assert len(node.comebacks()) == 1


@pytest.mark.parametrize("signum", ["USR1", "USR2"])
def test_warning_while_it_is_asked_who_brings_a_job_back_ends_nobody(
    node: Node, signum: str
) -> None:
    hit = f"kill -{signum} $$; kill -{signum} $PPID"
    node.client("srun", f"[ $INSTRUCT_INSIDE != 0 ] || exit 3; {LEAVES_WORD}; {hit}; sleep 60")
    node.client("python", f"{hit}; exit $(($INSTRUCT_INSIDE ? 0 : 85))")

    assert node.starts().wait(timeout=HANGS_SECONDS) == 128 + signal.Signals[f"SIG{signum}"]

    assert len(node.comebacks()) == 2


def test_job_whose_ranks_never_began_is_brought_back_though_srun_says_that_they_ended_well(
    node: Node,
) -> None:
    """Slurm could not open their log."""
    node.client("srun", f"[ $INSTRUCT_INSIDE = 0 ] || {LEAVES_WORD}")
    node.client("python", "exit 85")

    assert node.starts().wait(timeout=HANGS_SECONDS) == 0

    assert len(node.comebacks()) == 1
    assert "=== start 0000000007-0000x001" in node.log()


@pytest.mark.parametrize(
    ("code", "answer", "status"), [(0, 0, 1), (0, ENDED_WELL, 0), (3, 0, 3), (3, ENDED_WELL, 0)]
)
def test_job_has_ended_well_if_what_asks_its_ranks_words_patiently_says_so(
    node: Node, code: int, answer: int, status: int
) -> None:
    """The script itself may not see them; a rank may fail to write what submitit writes last."""
    node.client("srun", f"exit {code}")
    node.client("python", f"exit {answer}")

    assert node.starts().wait(timeout=HANGS_SECONDS) == status

    assert len(node.comebacks()) == 1


def test_job_whose_log_cannot_be_opened_begins_when_it_can_be(node: Node) -> None:
    log = node.folder / "7_0_log.out"
    log.mkdir()  # as good as a disk that refuses it
    node.client("srun", LEAVES_WORD)
    node.client("sleep", f"[ $(grep -c sleep {node.folder}/asked) -lt 3 ] || rmdir {log}")

    assert node.starts().wait(timeout=HANGS_SECONDS) == 0

    assert node.log().startswith("=== start 0000000007-0000")


def test_rank_whose_log_cannot_be_opened_begins_when_it_can_be(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_PROCID", "3")
    log = node.folder / "7_3_log.out"
    log.mkdir()
    node.client("srun", RUNS_A_RANK)
    node.client("python", f"{LEAVES_WORD}; echo said by $*")
    node.client("sleep", f"[ $(grep -c sleep {node.folder}/asked) -lt 3 ] || rmdir {log}")

    assert node.starts().wait(timeout=HANGS_SECONDS) == 0

    begins = "=== start 0000000007-0000\n"
    assert log.read_text() == (
        f"{begins}said by -u -m jobs.patient jobs.survival.rank {node.folder}\n"
    )


def test_slurm_opens_no_file_of_a_job() -> None:
    script = batch_script(Path("/jobs"), Resources("r", 60, "p"))

    [srun] = [line for line in script.splitlines() if line.startswith("srun ")]
    assert "#SBATCH --output=/dev/null\n" in script
    assert srun.index("--output=all") > srun.index("--output /jobs")  # the last one counts


@pytest.mark.parametrize(("state", "code"), [("finished", 0), ("running", 3), ("requeued", 3)])
def test_job_that_has_finished_is_not_started_once_more(
    node: Node, monkeypatch: pytest.MonkeyPatch, state: str, code: int
) -> None:
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    monkeypatch.setenv("INSTRUCT_JOB", str(node.folder))
    for start, word in {"0000000007-0001": state, "0000000006-0004": "finished"}.items():
        monkeypatch.setenv("INSTRUCT_START", start)
        write_progress(node.folder, Progress(state=word))

    assert node.starts().wait(timeout=HANGS_SECONDS) == code

    assert node.log().startswith("=== not started" if code == 0 else "=== start 0000000007-0002")
    assert (node.folder / "asked").exists() == (code != 0)


def test_term_before_the_ranks_listen_does_not_end_the_script(node: Node) -> None:
    os.mkfifo(node.folder / "go")
    node.client("srun", f"read word < {node.folder}/go; exit 143")
    started = node.starts()
    wait_for((node.folder / "asked").exists, "srun")

    started.send_signal(signal.SIGTERM)
    (node.folder / "go").write_text("on\n")

    assert started.wait(timeout=HANGS_SECONDS) == 143
    assert len(node.comebacks()) == 1


def test_token_of_who_submitted_a_job_has_run_out_when_the_job_asks_slurm(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JWT", "eyJ...")
    node.client("srun", f'echo "${{SLURM_JWT-none}}" > {node.folder}/said; {LEAVES_WORD}')

    assert node.starts().wait(timeout=HANGS_SECONDS) == 0

    assert (node.folder / "said").read_text() == "none\n"


def test_job_is_never_started_from_an_empty_pickle(node: Node) -> None:
    mine = node.folder / "7_submitted.pkl"
    node.client("cp", ': > "$2"; exit 1')  # a full disk

    node.starts().wait(timeout=HANGS_SECONDS)

    assert mine.read_text() == "the job"


def test_pickle_of_an_earlier_start_stays_where_the_disk_is_full(node: Node) -> None:
    mine = node.folder / "7_submitted.pkl"
    mine.write_text("the job, as a requeue left it")
    node.client("cp", ': > "$2"; exit 1')

    node.starts().wait(timeout=HANGS_SECONDS)

    assert mine.read_text() == "the job, as a requeue left it"


def test_lines_of_setup_run_before_the_ranks_and_say_when_they_fail(node: Node) -> None:
    node.client("srun", f'echo "$GREETING $PYTHONPATH" > said; {LEAVES_WORD}')
    lines = ("export GREETING='hello there' PYTHONPATH=/theirs", "false 'a b'", "[ 1 = 1 ]")

    assert node.starts(setup=lines).wait(timeout=HANGS_SECONDS) == 0

    log = node.log()
    assert (node.folder / "said").read_text() == f"hello there {node.folder}/code:/theirs\n"
    assert log.count("=== setup") == 1
    assert "=== setup: a line ended with 1: false 'a b'\n" in log


@pytest.mark.parametrize("runtime", ["apptainer", "enroot"])
def test_ranks_run_in_the_image_and_know_their_job(node: Node, runtime: str) -> None:
    node.client("srun", RUNS_A_RANK)
    node.client(runtime, f'echo "$@" > {node.folder}/started; {LEAVES_WORD}')
    node.client("python", "exit 0")

    container = Container("torch.sif", runtime, ("/data dir",))  # type: ignore[arg-type]
    assert node.starts(container=container).wait(timeout=HANGS_SECONDS) == 0

    words = (node.folder / "started").read_text()
    assert (
        f"torch.sif {node.clients}/python -u -m jobs.patient jobs.survival.rank {node.folder}"
        in words
    )
    assert "/data dir" in words
    if runtime == "enroot":
        assert "--env INSTRUCT_START" in words
        assert "--env SLURM_JOB_ID" in words
        assert "--env PATH " not in words


def test_ranks_begin_anew_in_the_same_allocation_under_a_number_of_their_own(node: Node) -> None:
    node.client("srun", f'echo "$INSTRUCT_START" "$@" >> {node.folder}/starts; exit 3')
    node.client("python", f"[ $(wc -l < {node.folder}/starts) -ge 3 ] && exit 0; exit 85")

    assert node.starts().wait(timeout=HANGS_SECONDS) == 3

    starts = [line.split()[0] for line in (node.folder / "starts").read_text().splitlines()]
    assert starts == ["0000000007-0000", "0000000007-0000x001", "0000000007-0000x002"]
    assert starts == sorted(starts)
    assert [place_of(start) for start in starts] == [(0, 0), (0, 1), (0, 2)]


def test_ranks_do_without_a_node_that_is_at_fault_where_one_is_to_spare(node: Node) -> None:
    left_out = node.folder / "left-out-0000000007-0000"
    node.client("srun", f'echo "$@" >> {node.folder}/starts; exit 3')
    node.client("python", f"[ -e {left_out} ] && exit 0; echo node1 > {left_out}; exit 85")

    node.starts(nodes=2, tasks_per_node=3, spare_nodes=1).wait(timeout=HANGS_SECONDS)

    first, second = (node.folder / "starts").read_text().splitlines()
    assert "--nodes=2 --ntasks=6" in first
    assert "--exclude" not in first
    assert "--exclude=node1" in second


def test_allocation_has_the_nodes_to_spare() -> None:
    script = batch_script(Path("/jobs"), Resources("r", 60, "p", nodes=2, spare_nodes=1))

    assert "#SBATCH --nodes=3\n" in script
