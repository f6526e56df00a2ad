"""What a site has of its own, from the flags to the batch script; sbatch is a few lines of shell."""

from __future__ import annotations

from pathlib import Path

import pytest

from instruct_core.errors import ConfigError
from jobs.queueing import job_id_in
from launch.cluster import container as container_module
from launch.cluster import slurm as slurm_module
from launch.cluster.container import Container, find_container, outermost
from launch.cluster.request import request_of, resources_of
from launch.cluster.script import Resources, batch_script, notes_on, option_in
from launch.flags.sbatch import check_options
from launch.flags.slurm import SlurmFlags, check_slurm_flags
from tests.launch.played_slurm import PlayedSlurm

A_NODE = "NodeName={name} CPUTot={cores} RealMemory={memory} Gres={gres} Partitions={where}\\n"


def options_in(script: str) -> dict[str, str]:
    """Return the options of a batch script by name."""
    lines = [line for line in script.splitlines() if option_in(line)]
    assert len({option_in(line) for line in lines}) == len(lines)
    return {option_in(line): line.partition("=")[2].strip("'") for line in lines}


def script_of(flags: SlurmFlags, nodes: int = 1, ranks: int = 2) -> str:
    """Return the script of a job with such flags on the played cluster."""
    check_slurm_flags(flags)
    return batch_script(Path("/jobs/1"), resources_of("r", flags, request_of(flags, nodes, ranks)))


def test_options_of_sbatch_are_written_and_those_left_out_are_not(slurm: PlayedSlurm) -> None:
    words = (
        "reservation=a course",
        "licenses=x:1,y",
        "exclusive",
        "mem=",
        "requeue=",
        "comment=it's",
    )

    script = script_of(SlurmFlags(sbatch=words))

    options = options_in(script)
    assert {"mem", "requeue"}.isdisjoint(options)
    assert options["reservation"] == "a course"
    assert options["licenses"] == "x:1,y"
    assert "#SBATCH --exclusive\n" in script
    assert script.index("--exclusive") < script.index("# setup")
    plain = options_in(script_of(SlurmFlags()))
    assert {
        k: v for k, v in plain.items() if k not in ("mem", "requeue")
    }.items() <= options.items()


@pytest.mark.parametrize(
    ("word", "gone"),
    [("mem-per-cpu=2G", "mem"), ("mem=0", None), ("no-requeue", "requeue")],
)
def test_option_that_says_the_same_in_another_way_stands_alone(
    slurm: PlayedSlurm, word: str, gone: str | None
) -> None:
    options = options_in(script_of(SlurmFlags(sbatch=(word,))))

    key, _, value = word.partition("=")
    assert options[key] == value
    assert gone not in options


def test_gpus_by_gres_take_the_place_of_ours(slurm: PlayedSlurm) -> None:
    slurm.gpus("gpu:4")

    options = options_in(script_of(SlurmFlags(sbatch=("gres=gpu:a100:2",))))

    assert (options["gres"], "gpus-per-node" in options) == ("gpu:a100:2", False)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("--mem=4G", "takes KEY=VALUE"),
        ("-p=low", "takes KEY=VALUE"),
        ("a b=1", "takes KEY=VALUE"),
        ("", "takes KEY=VALUE"),
        ("comment=two\nlines", "takes KEY=VALUE"),
        ("partition=low", "Use --partition"),
        ("time=60", "Use --time"),
        ("dependency=afterok:1", "Use --after"),
        ("nodes=", "a job of ours needs its --nodes"),
        ("output=x", "it is for the launcher to say"),
        ("array=0-3", "it is for the launcher to say"),
    ],
)
def test_option_that_cannot_be_is_refused_with_what_to_type(word: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refusal:
        check_options([word])

    assert "\n" not in str(refusal.value)


def test_leaving_out_what_is_not_written_is_said(slurm: PlayedSlurm) -> None:
    request = request_of(SlurmFlags(sbatch=("men=", "mem=", "hint=nomultithread")))

    assert request.notes == ("--sbatch men= leaves out nothing: no --men is written",)


REFUSING = """
script=$(cat "$2" 2>/dev/null || cat)
case "$script" in {refused}) echo 'sbatch: error: {said}' >&2; exit 1;; esac
echo 'sbatch: Job 9 to start at 2100-01-01T08:00:00 using 1' >&2"""


@pytest.mark.parametrize(
    ("refused", "said", "typed"),
    [
        ("*--requeue*", "Jobs here may not ask to come back", "--sbatch requeue="),
        ("*--mem=*", "Memory limits are for us to set", "--sbatch mem="),
        ("*--signal*", "No", "--sbatch signal="),
        ("*--gpus-per-node*", "Invalid generic resource (gres)", "--sbatch gres=gpu:2"),
        ("*--requeue*|*--mem=*", "Unspecified error", "--sbatch requeue= --sbatch mem="),
    ],
)
def test_refusal_of_a_site_names_the_option_and_what_to_type(
    slurm: PlayedSlurm, refused: str, said: str, typed: str
) -> None:
    slurm.gpus("gpu:4")
    slurm.client("sbatch", REFUSING.format(refused=refused, said=said))
    request = request_of(SlurmFlags(), ranks_per_node=2)

    with pytest.raises(ConfigError) as refusal:
        slurm_module.test_submission(Path("/jobs"), resources_of("r", SlurmFlags(), request))

    line = str(refusal.value)
    assert said in line
    assert line.endswith(f"Type: {typed}")
    words = tuple(word for word in typed.split() if word != "--sbatch")
    allowed = resources_of("r", SlurmFlags(sbatch=words), request)
    slurm_module.test_submission(Path("/jobs"), allowed)  # is taken


def test_refusal_that_no_option_causes_has_no_such_advice(slurm: PlayedSlurm) -> None:
    slurm.client("sbatch", "echo 'sbatch: error: Invalid account' >&2; exit 1")

    with pytest.raises(ConfigError, match=r"Invalid account\. See it: --dry-run$"):
        slurm_module.test_submission(Path("/jobs"), Resources("r", 60, "low"))


@pytest.mark.parametrize(
    ("said", "job_id"),
    [
        ("12\n", "12"),
        ("12;lab\n", "12"),
        ("  Welcome to the machine 3\n\n-> Verifying limits: 12 OK\n34\n", "34"),
        ("Submitted batch job 7\n", "7"),
        ("Submitted batch job 7 on cluster lab\nThank you.\n", "7"),
    ],
)
def test_job_id_is_found_among_what_a_site_says(said: str, job_id: str) -> None:
    assert job_id_in(said) == job_id


def test_answer_without_a_job_id_is_no_job_id() -> None:
    with pytest.raises(Exception, match=r"printed no job id, .*'Welcome, all 3 of you'"):
        job_id_in("Welcome, all 3 of you\n")


def nodes(slurm: PlayedSlurm, *lines: dict[str, str], partitions: str = "") -> None:
    """Say which nodes and partitions the played cluster has."""
    usual = {"cores": "8", "memory": "64000", "gres": "(null)", "where": "low"}
    text = "".join(
        A_NODE.format(**usual | {"name": f"n{i}"} | each) for i, each in enumerate(lines)
    )
    low = "PartitionName=low Default=YES State=UP MaxTime=1-00:00:00"
    answers = {
        "partition": f"{partitions or low}\\n",
        "node": text,
        "config": "MaxArraySize = 1001",
    }
    cases = " ".join(f"*'show {what}'*) printf '{answer}';;" for what, answer in answers.items())
    slurm.client("scontrol", f'case "$*" in {cases} esac')


def test_memory_that_nobody_tracks_is_not_asked_for(slurm: PlayedSlurm) -> None:
    nodes(slurm, {"memory": "1"}, {"memory": "1"})

    assert request_of(SlurmFlags()).mem_mb is None
    assert "mem" not in options_in(script_of(SlurmFlags()))
    assert options_in(script_of(SlurmFlags(mem=64)))["mem"] == "65536MB"


@pytest.mark.parametrize(
    ("limit", "expected"), [("MaxMemPerNode=3000", 3000), ("MaxMemPerCPU=100", 800)]
)
def test_no_more_memory_is_asked_for_than_a_partition_allows(
    slurm: PlayedSlurm, limit: str, expected: int
) -> None:
    nodes(slurm, {}, partitions=f"PartitionName=low Default=YES State=UP MaxTime=60 {limit}")

    assert request_of(SlurmFlags(), ranks_per_node=2).mem_mb == expected


def test_job_may_go_to_several_partitions_within_the_strictest_limit(slurm: PlayedSlurm) -> None:
    nodes(
        slurm,
        {"where": "a"}, {"where": "a,b"}, {"where": "b"}, {"where": "c"},
        partitions="PartitionName=a State=UP MaxTime=2:00:00\\n"
        "PartitionName=b State=UP MaxTime=90\\nPartitionName=c State=UP MaxTime=5",
    )  # fmt: skip

    options = options_in(script_of(SlurmFlags(partition="a,b"), nodes=2))

    assert (options["partition"], options["time"]) == ("a,b", "90")
    with pytest.raises(ConfigError, match="--nodes must be at most 2 in partition a,b"):
        request_of(SlurmFlags(partition="a,b"), nodes=3)  # no job is in two partitions
    with pytest.raises(ConfigError, match="--partition must be one of a, b, c, got d"):
        request_of(SlurmFlags(partition="a,d"))


def test_kind_of_gpu_is_asked_for_by_its_name(slurm: PlayedSlurm) -> None:
    nodes(
        slurm, {"gres": "gpu:a100:2(S:0-1),gpu:t4:8"}, {"gres": "gpu:a100:4"}, {"gres": "gpu:t4:8"}
    )

    options = options_in(script_of(SlurmFlags(gpu_type="a100"), ranks=4))

    assert options["gpus-per-node"] == "a100:4"
    with pytest.raises(ConfigError, match="--gpus must be at most 4 in a node of"):
        request_of(SlurmFlags(gpu_type="a100"), ranks_per_node=5)
    with pytest.raises(ConfigError, match="--nodes must be at most 2 in"):
        request_of(SlurmFlags(gpu_type="a100"), nodes=3)
    assert not request_of(SlurmFlags(gpu_type="t4"), ranks_per_node=8).has_bf16
    with pytest.raises(
        ConfigError, match="--gpu-type must be one of a100, t4 in partition low, got b200"
    ):
        request_of(SlurmFlags(gpu_type="b200"))


def test_note_says_what_a_job_has_of_its_own() -> None:
    own = Resources("r", 60, "p", sbatch=("mem=", "hold", "a=b"), setup=("module load x", "y"))

    assert notes_on(Resources("r", 60, "p")) == []
    assert notes_on(own) == ["sbatch  without --mem, --hold, --a=b", "Setup   module load x; y"]


def test_folders_inside_others_are_mounted_once() -> None:
    assert outermost(["/a/b", "/a", "/ab", "/c/d", "/c/d"]) == ["/a", "/ab", "/c/d"]


def test_image_that_is_not_there_and_runtime_that_is_not_are_refused(
    slurm: PlayedSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm.client("srun", "echo 'Usage: srun'")
    with pytest.raises(ConfigError, match=r"no file gone\.sif"):
        find_container("gone.sif", None, [], has_gpus=False)
    monkeypatch.setattr(container_module.shutil, "which", lambda program: None)
    with pytest.raises(ConfigError, match=r"needs pyxis .*, apptainer or enroot, and none"):
        find_container("docker://python:3.11", None, [], has_gpus=False)


def test_pyxis_is_taken_where_srun_has_it(slurm: PlayedSlurm) -> None:
    slurm.client("srun", "echo '      --container-image=[USER@][REGISTRY#]IMAGE'")

    flags = SlurmFlags(container="nvcr.io#nvidia/pytorch:24.01-py3", container_python="python3")
    places = ["/data/shards", "s3://bucket/runs", "/data"]
    script = batch_script(
        Path("/jobs/1"), resources_of("r", flags, request_of(flags), places=places)
    )

    [srun] = [line for line in script.splitlines() if line.startswith("srun ")]
    assert "'--container-image=nvcr.io#nvidia/pytorch:24.01-py3'" in srun
    assert "--container-mounts=/data:/data,/jobs/1:/jobs/1" in srun
    assert "python3 -u -m jobs.patient jobs.survival.rank /jobs/1" in srun


def test_apptainer_has_gpus_mounts_and_the_same_folder(tmp_path: Path) -> None:
    container = Container("my image.sif", "apptainer", ("/data",), None, has_gpus=True)

    command = container.command("/env/bin/python", Path("/jobs/1"))

    assert command == (
        "apptainer exec --nv --pwd /jobs/1 --bind /data --bind /jobs/1 'my image.sif' /env/bin/python"
    )
