"""What our store asks of Google's and Azure's: who is first, what is there now, and no answer."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor

import fsspec
import numpy as np
import pytest

from instruct_core.storage.objects import UPLOAD_BYTES, Objects
from instruct_core.storage.store import Store
from tests.stores.line import Fault, Plan, Request
from tests.stores.servers import Emulated

RANDOM = np.random.default_rng(5).integers(0, 256, 5 * UPLOAD_BYTES // 2, dtype=np.uint8)
SIZES = {"small": 1000, "of some parts": len(RANDOM)}

# gcsfs hands a part to aiohttp as bytes, which says so where warnings are shown; Python hides it.
pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")


def is_write(request: Request) -> bool:
    return request.method in ("PUT", "POST")


def nth_write(number: int, fault: Fault) -> Plan:
    """Have the n-th write of a plan go wrong."""
    seen = 0

    def plan(request: Request) -> Fault | None:
        nonlocal seen
        seen += is_write(request)
        return fault if is_write(request) and seen == number else None

    return plan


@pytest.mark.parametrize("size", SIZES)
def test_file_reads_back_as_it_was_written_and_is_written_once(
    emulated: Emulated, size: str
) -> None:
    store = Store(f"{emulated.url}/once")
    data, other = RANDOM[: SIZES[size]].data, RANDOM[::-1][: SIZES[size]].copy().data

    digest = store.put(f"{size}.bin", [data])

    assert store.digest(f"{size}.bin") == digest
    with pytest.raises(FileExistsError):
        store.put(f"{size}.bin", [other])
    assert store.read(f"{size}.bin") == data


def test_one_of_many_who_claim_the_same_name_gets_it(emulated: Emulated) -> None:
    store = Store(f"{emulated.url}/claims")

    with ThreadPoolExecutor(8) as threads:
        got = list(threads.map(lambda n: store.claim("attempt", b"%d" % n), range(8)))

    assert sum(got) == 1
    assert store.read("attempt") == b"%d" % got.index(True)
    assert store.try_out(), "it keeps two writers apart"


def test_listing_shows_what_somebody_else_has_written_and_removed_since(emulated: Emulated) -> None:
    store = Store(f"{emulated.url}/listed")
    store.put("step-1/a", [memoryview(b"1")])
    assert store.names() == ["step-1"]
    protocol = emulated.url.partition("://")[0]
    kwargs = {"connection_string": emulated.env.get("AZURE_STORAGE_CONNECTION_STRING")}
    other = fsspec.filesystem(
        protocol, skip_instance_cache=True, **(kwargs if protocol == "az" else {"token": "anon"})
    )

    other.pipe_file("bucket/listed/step-2/b", b"22")
    other.rm_file("bucket/listed/step-1/a")

    assert store.names() == ["step-2"]
    assert store.tree() == {"step-2/b": 2}
    assert store.sizes("step-2") == {"b": 2}
    assert not store.exists("step-1/a")


def test_folder_moves_and_goes_with_all_it_holds(emulated: Emulated) -> None:
    store = Store(f"{emulated.url}/moved")
    for name in ("step-1/a", "step-1/manifest.json", "step-11/a"):
        store.put(name, [memoryview(name.encode())])

    store.move("step-1", "damaged-step-1")
    assert store.tree().keys() == {"damaged-step-1/a", "damaged-step-1/manifest.json", "step-11/a"}
    store.remove("damaged-step-1")
    store.remove("damaged-step-1")

    assert store.tree() == {"step-11/a": 9}


@pytest.mark.parametrize("fault", [Fault.REFUSED, Fault.FAILED, Fault.CUT_BEFORE, Fault.CUT_AFTER])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_large_file_arrives_though_one_of_its_requests_goes_wrong(
    emulated: Emulated, fault: Fault, number: int
) -> None:
    store = Store(f"{emulated.url}/parts")
    name = f"{fault.name}-{number}.bin"
    emulated.line.plan(nth_write(number, fault))

    digest = store.put(name, [RANDOM.data])

    emulated.line.clear()
    assert store.digest(name) == digest
    assert store.size_bytes(name) == len(RANDOM)


@pytest.mark.parametrize("fault", [Fault.REFUSED, Fault.FAILED, Fault.CUT_BEFORE, Fault.CUT_AFTER])
def test_claim_whose_answer_is_lost_is_ours_and_nobody_else_s(
    emulated: Emulated, fault: Fault
) -> None:
    store = Store(f"{emulated.url}/lost", patience_seconds=60)
    emulated.line.plan(nth_write(1, fault))

    assert store.claim(fault.name, b"mine")
    emulated.line.clear()
    assert not store.claim(fault.name, b"somebody's")
    assert store.read(fault.name) == b"mine"


def test_store_that_is_away_for_a_while_is_asked_again(emulated: Emulated) -> None:
    store = Store(f"{emulated.url}/away", patience_seconds=120)
    store.put("a", [memoryview(b"there")])
    emulated.line.plan(lambda request: Fault.CUT_BEFORE if request.number <= 4 else None)

    assert store.read("a") == b"there"
    assert emulated.line.count > 4


def test_store_that_does_not_answer_is_no_empty_one(emulated: Emulated) -> None:
    """All at once: gcsfs gives up after half a minute."""
    store = Store(f"{emulated.url}/silent", patience_seconds=0.0)
    emulated.line.plan(lambda request: Fault.CUT_BEFORE)
    asked = (
        store.names, store.tree, lambda: store.exists("a"), lambda: store.size_bytes("a"),
        lambda: store.read("a"),
    )  # fmt: skip

    with ThreadPoolExecutor(len(asked)) as threads:
        told = [call.exception() for call in [threads.submit(ask) for ask in asked]]

    for error in told:
        assert isinstance(error, OSError)
        assert not isinstance(error, FileNotFoundError)
        assert "\n" not in str(error)


def test_client_of_azure_waits_seconds_between_its_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("adlfs")
    monkeypatch.setenv(
        "AZURE_STORAGE_CONNECTION_STRING",
        "AccountName=a;AccountKey=YQ==;BlobEndpoint=http://127.0.0.1:9/a",
    )

    Objects("az://container/place", patience_seconds=0.0)

    files, _ = fsspec.core.url_to_fs("az://container/place")  # the same one again
    policies = files.service_client._pipeline._impl_policies
    waits = [p.get_backoff_time({"count": 2}) for p in policies if hasattr(p, "get_backoff_time")]
    assert len(waits) == 1
    assert waits[0] <= 6


def test_bucket_that_is_not_there_is_one_line_that_will_not_pass(emulated: Emulated) -> None:
    store = Store(emulated.url.replace("bucket", "no-such-bucket-here") + "/c")

    with pytest.raises(FileNotFoundError, match="no-such-bucket-here"):
        store.try_out()


def test_store_that_refuses_us_is_one_line_that_will_not_pass(emulated: Emulated) -> None:
    store = Store(f"{emulated.url}/c", patience_seconds=600)
    emulated.line.plan(lambda request: Fault.FORBIDDEN)

    with pytest.raises(PermissionError) as caught:
        store.try_out()

    assert "\n" not in str(caught.value)
    assert emulated.secret not in str(caught.value) or not emulated.secret


def test_large_object_whose_parts_are_all_refused_is_one_error_and_no_more_is_said(
    emulated: Emulated, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(f"{emulated.url}/forbidden")
    store.names()  # the client is there
    emulated.line.plan(lambda request: Fault.FORBIDDEN if is_write(request) else None)

    with pytest.raises(PermissionError):
        store.put("a.bin", [memoryview(bytes(68 << 20))])  # more than one request takes

    parts_fail(store)
    emulated.line.clear()
    gc.collect()  # a part that nobody has looked at is told of when it goes
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


def parts_fail(store: Store) -> None:
    """Wait until the parts that were on their way have failed too."""
    with pytest.raises(PermissionError):
        store.put("b.bin", [memoryview(b"1")])
