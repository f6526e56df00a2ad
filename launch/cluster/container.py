"""
The image that a job's ranks run in, and what starts it: pyxis, apptainer or enroot.

    container = find_container("torch.sif", None, ["/data/shards", "s3://bucket/runs"], has_gpus=True)
    container.command(sys.executable, folder)     # apptainer exec --nv --bind ... torch.sif python
    container.srun(folder)                        # what srun takes instead, with pyxis

The batch script stays outside: what brings a job back runs where Slurm's clients are. Every folder is
seen in the image under the name that it has outside. Sources: pyxis' README; apptainer exec --help;
enroot's doc/cmd/start.md.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from instruct_core.errors import ConfigError, SlurmError
from instruct_core.storage.names import real_path
from jobs.slurm import run_client

Runtime = Literal["pyxis", "apptainer", "singularity", "enroot"]
PROGRAMS: tuple[Runtime, ...] = ("apptainer", "singularity", "enroot")
FILES = (".sif", ".sqsh", ".img", ".simg")
OF_THE_IMAGE = ("/", "/usr", "/usr/local")  # Python's places that an image has its own of
# What the ranks know of their job comes in their environment, which an image may have its own of.
KEPT = "PYTHONPATH,PYTHONSAFEPATH"
NOT_KEPT = "PATH|HOME|SHELL|PWD|TMPDIR|LD_LIBRARY_PATH|LD_PRELOAD|_"


@dataclass(frozen=True)
class Container:
    """How ranks are started in an image."""

    image: str
    runtime: Runtime
    mounts: tuple[str, ...]  # folders that the image sees, by the same names
    python: str | None = None  # in the image, if not the one that is mounted
    has_gpus: bool = False

    def command(self, python: str, folder: Path) -> str:
        """
        Return what stands before Python's arguments, in words of shell.

        Args:
            python: That of the active environment.
            folder: Of the job; it is mounted too.
        """
        python, mounts = shlex.quote(self.python or python), self._with(folder)
        image, place = shlex.quote(self.image), shlex.quote(str(folder))
        if self.runtime == "pyxis":
            return python
        if self.runtime == "enroot":
            # It starts with an empty environment; the ranks' own is known on their node only.
            names = f"env | sed -nE '/^({NOT_KEPT})=/d; s/^([A-Za-z_][A-Za-z0-9_]*)=.*/--env \\1/p'"
            binds = " ".join(f"--mount {shlex.quote(f'{place}:{place}')}" for place in mounts)
            inner = f'exec enroot start $({names}) {binds} {image} "$@"'
            return f"sh -c {shlex.quote(inner)} sh {python}"
        binds = " ".join(f"--bind {shlex.quote(place)}" for place in mounts)
        nv = "--nv " if self.has_gpus else ""
        return f"{self.runtime} exec {nv}--pwd {place} {binds} {image} {python}"

    def srun(self, folder: Path) -> list[str]:
        """Return what srun itself takes; [] where it knows nothing of images."""
        if self.runtime != "pyxis":
            return []
        return [
            f"--container-image={self.image}",
            f"--container-mounts={','.join(f'{place}:{place}' for place in self._with(folder))}",
            f"--container-workdir={folder}",
            f"--container-env={KEPT}",
        ]

    def _with(self, folder: Path) -> list[str]:
        return outermost([*self.mounts, str(folder)])

    def __str__(self) -> str:
        return f"{self.image}, with {self.runtime}; it sees {', '.join(self.mounts)}"


def find_container(
    image: str, python: str | None, places: Iterable[str], has_gpus: bool
) -> Container:
    """
    Return how ranks are started in an image, with what is here.

    Args:
        image: A file, or a name that the runtime knows.
        python: In the image; None mounts that of the active environment.
        places: Paths and URLs that the job uses; URLs need no mount.
        has_gpus: The ranks have GPUs.

    Raises:
        ConfigError: There is no such file, or nothing that runs images.
    """
    path = Path(image)
    if path.is_file() or path.is_dir():
        image = str(path.resolve())
    elif path.suffix in FILES or image.startswith(("/", "./", "../")):
        raise ConfigError(f"--container must be an image, and there is no file {image}.")
    folders = [str(real_path(place)) for place in places if place and "://" not in place]
    if python is None:
        mine = (sys.prefix, sys.base_prefix)
        folders += [str(Path(p).resolve()) for p in mine if p not in OF_THE_IMAGE]
    return Container(image, _runtime(), tuple(outermost(folders)), python, has_gpus)


def outermost(folders: Iterable[str]) -> list[str]:
    """Return folders without those inside another of them."""
    kept: list[str] = []
    for folder in sorted(set(folders)):
        if not any(Path(folder).is_relative_to(other) for other in kept):
            kept.append(folder)
    return kept


def _runtime() -> Runtime:
    try:
        if "--container-image" in run_client(["srun", "--help"]):
            return "pyxis"
    except SlurmError:
        pass
    for program in PROGRAMS:
        if shutil.which(program):
            return program
    raise ConfigError(
        "--container needs pyxis (srun --container-image), apptainer or enroot, and none of them is "
        "here. Load its module, or leave it out."
    )
