"""A network of their own for the nodes of a cluster."""

from __future__ import annotations

from collections.abc import Sequence

from tests.slurm.processes import run_command


def make_networks(space: str, addresses: Sequence[str]) -> None:
    """
    Make a bridge in the controller's network, and a cable from it to every node.

    Args:
        space: What the names of the network namespaces begin with.
        addresses: Of the controller, then of each node.
    """
    control = f"{space}-0"
    run_command("ip", "netns", "add", control)
    run_command("ip", "-n", control, "link", "set", "lo", "up")
    run_command("ip", "-n", control, "link", "add", "br0", "type", "bridge")
    run_command("ip", "-n", control, "addr", "add", *_as_given(addresses[0]), "dev", "br0")
    run_command("ip", "-n", control, "link", "set", "br0", "up")
    for node, address in enumerate(addresses[1:], start=1):
        own = f"{space}-{node}"
        run_command("ip", "netns", "add", own)
        run_command("ip", "-n", own, "link", "set", "lo", "up")
        run_command(
            *("ip", "-n", control, "link", "add", f"h{node}", "type", "veth"),
            *("peer", "name", "eth0", "netns", own),
        )
        run_command("ip", "-n", control, "link", "set", f"h{node}", "master", "br0", "up")
        run_command("ip", "-n", own, "addr", "add", *_as_given(address), "dev", "eth0")
        run_command("ip", "-n", own, "link", "set", "eth0", "up")


def _as_given(address: str) -> list[str]:
    """Return an address as `ip addr add` takes it; IPv6 is not looked for elsewhere first."""
    return [f"{address}/64", "nodad"] if ":" in address else [f"{address}/24"]
