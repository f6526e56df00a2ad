"""A site's profile: whose flags count, and what is said of a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from instruct_core.errors import ConfigError
from launch.flags import site as module
from launch.flags.finetune import Finetune
from launch.flags.generate import Generate
from launch.flags.preprocess import Preprocess
from launch.flags.site import Site, parse_on_site, parse_typed
from launch.flags.slurm import SlurmFlags

PROFILE = """
partition = "gpu"
account = "lab"
time = "2:00:00"
mem = 16
gpu-type = "a100"
sbatch = ["mem=", "reservation=course"]
setup = ["module load cuda", "ulimit -c 0"]
[preprocess]
partition = "cpu"
"""


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A profile in the folder one types in."""
    monkeypatch.delenv("INSTRUCT_SITE", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "site.toml"
    path.write_text(PROFILE)
    return path


def test_profile_stands_for_flags_that_nobody_typed(profile: Path) -> None:
    slurm = parse_on_site(Finetune, ["--partition=debug", "--account", "mine"]).slurm

    assert (slurm.partition, slurm.account) == ("debug", "mine")
    assert (slurm.time, slurm.mem, slurm.gpu_type) == (120, 16.0, "a100")
    assert slurm.setup == ("module load cuda", "ulimit -c 0")


def test_command_has_a_table_of_its_own(profile: Path) -> None:
    generate = parse_on_site(Generate, ["--source=q.jsonl", "--out=a.jsonl"])

    assert parse_on_site(Preprocess, []).slurm.partition == "cpu"
    assert generate.slurm.partition == "gpu"


def test_typed_options_of_sbatch_join_those_of_the_profile_and_win(profile: Path) -> None:
    slurm = parse_on_site(Finetune, ["--sbatch=reservation=exam", "--sbatch", "hold"]).slurm

    assert slurm.sbatch == ("mem=", "reservation=exam", "hold")


@pytest.mark.parametrize(
    ("words", "setup"),
    [(["--setup=source env.sh"], ("source env.sh",)), (["--setup", "None"], ())],
)
def test_typed_setup_takes_the_place_of_the_profiles(
    profile: Path, words: list[str], setup: tuple[str, ...]
) -> None:
    assert parse_on_site(Finetune, words).slurm.setup == setup


def test_what_a_run_has_counts_more_than_the_profile_and_less_than_what_is_typed(
    profile: Path,
) -> None:
    known = Finetune(slurm=SlurmFlags(account="old", sbatch=("reservation=old",), setup=("a", "b")))

    kept = parse_on_site(Finetune, [], default=known)
    typed = parse_typed(Finetune, ["--account=new", "--setup=c"], default=kept)

    assert (kept.slurm.account, kept.slurm.partition) == ("old", "gpu")
    assert kept.slurm.sbatch == ("reservation=old", "mem=")
    assert kept.slurm.setup == ("a", "b")
    assert (typed.slurm.account, typed.slurm.setup) == ("new", ("c",))
    assert parse_typed(Finetune, ["--sbatch=reservation=old"], default=kept) == kept


def test_nearest_profile_counts_alone(profile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, other = module.home_profile(), profile.with_name("other.toml")
    home.parent.mkdir(parents=True)
    home.write_text('qos = "home"')
    other.write_text('qos = "other"')

    assert parse_on_site(Finetune, []).slurm.qos is None
    monkeypatch.setenv("INSTRUCT_SITE", str(other))
    assert parse_on_site(Finetune, []).slurm == SlurmFlags(qos="other")
    monkeypatch.setenv("INSTRUCT_SITE", "")
    assert parse_on_site(Finetune, []).slurm == SlurmFlags()
    monkeypatch.delenv("INSTRUCT_SITE")
    profile.unlink()
    assert parse_on_site(Finetune, []).slurm == SlurmFlags(qos="home")


def test_line_names_the_file_and_what_a_command_takes_from_it(profile: Path) -> None:
    profile.write_text('account = "my lab"\n[preprocess]\npartition = "cpu"\n')

    assert Site.found().line("preprocess") == (
        f"{profile}: '--account=my lab' --partition=cpu; what is typed counts more"
    )
    assert Site().line("finetune") == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('partitoin = "gpu"', "unknown key partitoin. Known are account, "),
        ('after = "12"', "unknown key after"),
        ('[finetune]\ngpus = 4', "unknown key gpus"),
        ('[evaluate]\npartition = "x"', "unknown key evaluate"),
        ('finetune = "x"', "finetune must be a table, as in [finetune]"),
        ('partition = ["a"]', "partition takes a text or a number, got ['a']"),
        ("setup = [true]", "setup takes a text or a list of texts, got [True]"),
        ('time = "2h"', "for finetune: --time takes minutes or"),
        ("cpus-per-task = 0", "for finetune: --cpus-per-task must be at least 1, got 0"),
        ('sbatch = ["partition=x"]', "for finetune: --sbatch partition=x: there is a flag"),
        ("partition = gpu", "is no TOML: Invalid value (at line 1, column 13)"),
    ],
)  # fmt: skip
def test_wrong_profile_is_one_line_that_names_it(profile: Path, text: str, said: str) -> None:
    profile.write_text(text)

    with pytest.raises(ConfigError) as refusal:
        parse_on_site(Finetune, [])

    line = str(refusal.value)
    assert line.startswith(f"Profile {profile}")
    assert said in line
    assert "\n" not in line


@pytest.mark.parametrize("named", ["gone.toml", "."])
def test_profile_that_is_named_and_cannot_be_read_is_refused(
    profile: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    monkeypatch.setenv("INSTRUCT_SITE", named)

    with pytest.raises(ConfigError, match=f"Profile {profile.parent}.* cannot be read: "):
        parse_on_site(Finetune, [])
