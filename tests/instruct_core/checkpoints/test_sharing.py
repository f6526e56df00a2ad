"""Ranks share the writing and the reading, and any number of them loads what any other has saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from instruct_core import ranks
from instruct_core.checkpoints.loader import load_newest
from instruct_core.checkpoints.retention import Keep
from instruct_core.checkpoints.steps import committed_steps, read_manifest, step_name
from instruct_core.checkpoints.writer import Checkpoints
from instruct_core.errors import FencedError
from instruct_core.storage.store import Store
from tests.fakes import facts_of
from tests.forked_ranks import in_ranks
from tests.s3_server import S3Server


def state(seed: int) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    shapes = [(50, 7), (3,), (), (128, 128), (1, 5), (64, 33), (9,)]
    return {f"t{i}": torch.randn(shape, generator=draw) for i, shape in enumerate(shapes)}


def begin(url: str) -> Checkpoints:
    checkpoints = Checkpoints(Store(url))
    checkpoints.claim_attempt()
    return checkpoints


def save(url: str, step: int) -> None:
    checkpoints = begin(url)
    rng = {"torch": torch.tensor([100 + ranks.rank()], dtype=torch.uint8)}
    checkpoints.write(checkpoints.take(step, state(1), {}, state(2), rng, facts_of(step)), Keep())


def load(url: str) -> tuple[bool, int | None]:
    """Return whether all tensors are equal bit for bit, and this rank's random generator."""
    loaded = load_newest(Checkpoints(Store(url)))
    assert loaded is not None
    same = all(
        torch.equal(found[name].view(torch.uint8), expected[name].view(torch.uint8))
        if expected[name].dim()
        else torch.equal(found[name], expected[name])
        for found, expected in ((loaded.model, state(1)), (loaded.optimizer, state(2)))
        for name in expected
    )
    complete = loaded.model.keys() == state(1).keys() == loaded.optimizer.keys()
    return same and complete, None if loaded.rng is None else int(loaded.rng["torch"][0])


def places(tmp_path_factory: pytest.TempPathFactory, server: S3Server) -> dict[str, str]:
    return {"disk": str(tmp_path_factory.mktemp("run")), "s3": f"{server.url}/shared"}


@pytest.fixture(scope="module")
def saved_by_four(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A checkpoint that four ranks have written, on a disk and on S3."""
    with pytest.MonkeyPatch.context() as patch, S3Server(tmp_path_factory.mktemp("s3")) as server:
        server.use(patch)
        urls = places(tmp_path_factory, server)
        for url in urls.values():
            in_ranks(4, lambda rank, url=url: save(url, 7))
        yield urls


@pytest.mark.parametrize("place", ["disk", "s3"])
@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_any_number_of_ranks_loads_what_four_have_saved_bit_for_bit(
    saved_by_four: dict[str, str], place: str, world_size: int
) -> None:
    found = in_ranks(world_size, lambda rank: load(saved_by_four[place]))

    assert all(same for same, _ in found)
    generators = [100, 101, 102, 103, None, None, None, None]
    assert [generator for _, generator in found] == generators[:world_size]


def test_ranks_write_about_the_same_number_of_bytes(tmp_path: Path) -> None:
    """Rank 0 has the model too, so it takes less of the optimizer, which is twice as large."""
    model = {f"w{i}": torch.zeros(1000) for i in range(30)}
    moments = {f"{kind}/w{i}": torch.zeros(1000) for i in range(30) for kind in ("m", "v")}

    def write(rank: int) -> None:
        checkpoints = begin(str(tmp_path))
        checkpoints.write(checkpoints.take(1, model, {}, moments, {}, facts_of(1)), Keep())

    in_ranks(3, write)

    sizes = {e.file: e.bytes for e in read_manifest(Store(tmp_path), 1).files}
    by_rank = [sizes[f"state-0000{rank}-of-00003.safetensors"] for rank in range(3)]
    by_rank[0] += sizes["model.safetensors"]
    assert max(by_rank) < 1.1 * min(by_rank)


def test_object_store_gives_each_file_once(
    saved_by_four: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def count(rank: int) -> list[str]:
        read: list[str] = []
        real = Store.read_hashed

        def counted(self: Store, name: str, buffer: Any) -> str:
            read.append(name)
            return real(self, name, buffer)

        Store.read_hashed = counted  # type: ignore[method-assign]
        assert load(saved_by_four["s3"])[0]
        return read

    read = [name for names in in_ranks(3, count) for name in names]

    assert len(read) == len(set(read)) == 6


def test_damage_that_one_rank_finds_is_found_by_all(tmp_path: Path) -> None:
    url = str(tmp_path)
    in_ranks(2, lambda rank: save(url, 7))
    in_ranks(2, lambda rank: save(url, 8))
    path = tmp_path / step_name(8) / "state-00001-of-00002.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(data)

    def load_step(rank: int) -> int:
        loaded = load_newest(begin(url))
        assert loaded is not None
        return loaded.step

    assert in_ranks(3, load_step) == [7, 7, 7]


def test_rank_that_cannot_write_fails_the_save_on_all_of_them(tmp_path: Path) -> None:
    def attempt(rank: int) -> str:
        checkpoints = begin(str(tmp_path))
        if rank == 1:
            checkpoints.store.put = None  # type: ignore[assignment,method-assign]
            Store.put = refuse  # type: ignore[method-assign]
        try:
            checkpoints.write(checkpoints.take(1, state(1), {}, state(2), {}, facts_of(1)), Keep())
        except OSError as error:
            return str(error)
        return ""

    def refuse(self: Store, name: str, views: object) -> str:
        raise OSError(28, "No space left on device")

    first, second, third = in_ranks(3, attempt)

    assert "rank 1: " in first
    assert "rank 1: " in third
    assert "No space left" in second
    assert committed_steps(Store(tmp_path)) == []
    assert not (tmp_path / step_name(1)).exists(), "nothing half-written is left"


def test_all_ranks_of_an_overtaken_attempt_are_told(tmp_path: Path) -> None:
    def attempt(rank: int) -> bool:
        checkpoints = begin(str(tmp_path))
        ranks.barrier()
        if rank == 0:
            checkpoints.store.claim("attempts/0009.json", b"newer")
        ranks.barrier()
        with pytest.raises(FencedError, match="belongs to attempt 9 now"):
            checkpoints.write(checkpoints.take(1, state(1), {}, state(2), {}, facts_of(1)), Keep())
        return True

    assert all(in_ranks(3, attempt))
