"""
The tests on Slurm once more, on a Slurm that this machine does not have.

    python -m tests.slurm.other_slurms 26.05                          # all of tests/slurm
    python -m tests.slurm.other_slurms 24.11 tests/slurm/test_queue.py -k limit
    python -m tests.slurm.other_slurms newest tests/slurm/test_faults.py    # where it can be had

Debian's newer suites have newer Slurms. Each gets a root of its own, made once (250 MB, a minute) in a
cache folder, in which the project and its Python are mounted; nothing outside of it changes. Needs
root, debootstrap and Debian's mirror.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.conftest import REPO

SUITES = {"24.11": "trixie", "26.05": "forky"}
NEWEST = max(SUITES)
MIRROR = "http://deb.debian.org/debian"
PACKAGES = (
    "slurm-client", "slurmctld", "slurmd", "munge", "slurm-wlm-basic-plugins", "iproute2", "procps",
    "hostname", "git", "make", "libssl3t64", "libffi8", "libsqlite3-0", "libreadline8t64",
    "libbz2-1.0", "liblzma5", "libncursesw6",
)  # fmt: skip
MAKE_SECONDS = 900.0  # a minute where the mirror is near
SCRIPTS = Path("/usr/share/debootstrap/scripts")
# The mounts end with the namespace that they are made in. A root must be a mount point of its own:
# the tests' nodes make namespaces inside.
ENTER = """\
set -e
mount --bind {root} {root}
for place in proc sys tmp dev; do mount --rbind /$place {root}/$place; done
for place in {places}; do mkdir -p {root}$place; mount --rbind $place {root}$place; done
cp /etc/hosts /etc/resolv.conf {root}/etc/
exec chroot {root} env -C {repo} {python} -m pytest "$@"
"""


def cache() -> Path:
    """Return where the roots are kept."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "instruct-cluster-tests"


def root_of(version: str) -> Path:
    """Return the root with a Slurm of this version; made if it is not there yet."""
    root, suite = cache() / f"slurm-{version}", SUITES[version]
    if root.exists():
        return root
    scratch = root.with_suffix(".making")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    # debootstrap knows no suite that is younger than itself; all are made as unstable is.
    script = suite if (SCRIPTS / suite).exists() else "sid"
    command = ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", suite]
    subprocess.run(
        [*command, str(scratch), MIRROR, str(SCRIPTS / script)],
        check=True, timeout=MAKE_SECONDS, stdout=sys.stderr,
    )  # fmt: skip
    (scratch / "etc" / "hosts").touch()  # the tests mount their own over it
    return scratch.rename(root)


def why_not(version: str) -> str:
    """Return why a root cannot be made here; "" if it is there, or can be."""
    if os.geteuid() != 0:
        return "needs root"
    if root_is_there(version):
        return ""
    if shutil.which("debootstrap") is None:
        return "needs debootstrap: apt-get install debootstrap"
    try:
        root_of(version)
    except (OSError, subprocess.SubprocessError) as error:
        return f"its root could not be made: {error}"
    return ""


def root_is_there(version: str) -> bool:
    """Return True if nothing has to be made."""
    return (cache() / f"slurm-{version}").exists()


def run_tests(version: str, arguments: list[str]) -> int:
    """Run pytest where that Slurm is; return its exit code."""
    root = root_of(version)
    places = sorted({str(REPO), sys.base_prefix, sys.prefix})
    outer = [place for place in places if not any(place.startswith(f"{o}/") for o in places)]
    script = ENTER.format(root=root, places=" ".join(outer), repo=REPO, python=sys.executable)
    command = ["unshare", "--mount", "bash", "-c", script, "bash", *(arguments or ["tests/slurm"])]
    # Of its own: pytest clears away older ones, and what another suite had mounted in one of them when
    # the namespace was made stays mounted here.
    with tempfile.TemporaryDirectory(prefix="pytest-", ignore_cleanup_errors=True) as own:
        environment = os.environ | {"PYTEST_DEBUG_TEMPROOT": own}
        return subprocess.run(command, env=environment, check=False).returncode


def main() -> int:
    version, arguments = (sys.argv[1:2] or [""])[0], sys.argv[2:]
    if version == "newest":
        if why := why_not(NEWEST):
            print(f"Tests on Slurm {NEWEST} are skipped: {why}")
            return 0
        version = NEWEST
    if version not in SUITES:
        print(
            f"python -m tests.slurm.other_slurms {'|'.join((*SUITES, 'newest'))} [pytest's arguments]"
        )
        return 2
    return run_tests(version, arguments)


if __name__ == "__main__":
    sys.exit(main())
