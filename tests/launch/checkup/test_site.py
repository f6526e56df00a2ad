"""A first profile, written by doctor from what it finds."""

from __future__ import annotations

from pathlib import Path

import pytest

from instruct_core.errors import ConfigError
from launch.checkup.scheduler import check_slurm
from launch.checkup.site import check_can_write, write_site
from launch.flags.finetune import Finetune
from launch.flags.site import home_profile, parse_on_site
from launch.flags.slurm import SlurmFlags
from tests.launch.played_slurm import PlayedSlurm

REFUSES_MEM = """
case "$(cat)" in *--mem=*) echo 'sbatch: error: no' >&2; exit 1;; esac
echo 'sbatch: Job 9 to start at 2026-01-01T08:00:00 using 1' >&2"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PlayedSlurm:
    """A cluster with GPUs that refuses --mem, and a person who has no profile."""
    monkeypatch.delenv("INSTRUCT_SITE", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    slurm = PlayedSlurm(tmp_path / "slurm", monkeypatch)
    slurm.gpus("gpu:a100:4")
    slurm.client("sbatch", REFUSES_MEM)
    return slurm


def test_first_profile_has_what_was_typed_and_what_the_site_wants(
    slurm: PlayedSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBATCH_QOS", 'the "good" one')
    typed = SlurmFlags(account="lab", time=90, setup=("module load x",), after="12")
    offer = check_slurm(typed)[1]

    path = write_site(typed, offer)

    assert path == home_profile()
    assert (
        "#   partition low (the default): 2 nodes, up to 4 GPUs (a100), 4 cores" in path.read_text()
    )
    assert parse_on_site(Finetune, []).slurm == SlurmFlags(
        partition="low", account="lab", qos='the "good" one', time=90, setup=("module load x",),
        sbatch=("mem=",),
    )  # fmt: skip


def test_profile_that_is_there_stays_as_it_is(slurm: PlayedSlurm) -> None:
    home_profile().parent.mkdir(parents=True)
    home_profile().write_text("# mine")

    with pytest.raises(ConfigError, match=f"overwrites nothing, and {home_profile()} is there"):
        check_can_write()

    assert home_profile().read_text() == "# mine"


def test_nothing_is_written_where_no_slurm_answers(slurm: PlayedSlurm) -> None:
    with pytest.raises(ConfigError, match="needs a Slurm that answers"):
        write_site(SlurmFlags(), None)

    assert not home_profile().parent.exists()
