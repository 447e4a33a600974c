"""Two hosts: torchrun in two network namespaces with a cable between them, against one rank on one host.

Namespaces need the right to make them (root, or CAP_SYS_ADMIN and CAP_NET_ADMIN); without it the tests skip aloud.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.engine.workspace import command, environment, losses, make_workspace, pretrain

pytestmark = pytest.mark.slow
EXACT = ("--set", "precision=fp64", "method.dropout=0", "optimizer.lr=1e-3")
PORT = 29511


@dataclass(frozen=True)
class Host:
    """A network namespace: its name, its end of the cable and its address there."""

    name: str
    link: str
    address: str

    def start(self, words: list[str], variables: dict[str, str]) -> subprocess.Popen[str]:
        """A process that sees this host's network only."""
        return subprocess.Popen(
            ["ip", "netns", "exec", self.name, *words],
            env={**variables, "GLOO_SOCKET_IFNAME": self.link},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip


def ip(*words: str) -> None:
    """Run `ip`, or skip aloud where it is not there or not allowed."""
    program = shutil.which("ip")
    if program is None:
        pytest.skip("two hosts need the program ip (iproute2) for network namespaces")
    done = subprocess.run([program, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"two hosts need network namespaces, and `ip {' '.join(words)}` says: {done.stderr.strip()}")


@pytest.fixture
def hosts() -> Iterator[list[Host]]:
    """Two namespaces with a cable between them, and no other way out."""
    own = os.getpid()
    made = [Host(f"nnssl-{own}-{end}", f"nn{own}{end}"[:15], f"10.77.0.{end}") for end in (1, 2)]
    added = []
    try:
        for host in made:
            ip("netns", "add", host.name)
            added.append(host)
        ip("link", "add", made[0].link, "type", "veth", "peer", "name", made[1].link)
        for host in made:
            ip("link", "set", host.link, "netns", host.name)
            ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", host.link)
            for link in (host.link, "lo"):
                ip("-n", host.name, "link", "set", link, "up")
        yield made
    finally:
        for host in added:
            subprocess.run(["ip", "netns", "delete", host.name], capture_output=True, check=False)


def test_torchrun_on_two_hosts_gives_the_losses_of_one_rank(hosts: list[Host], tmp_path: Path) -> None:
    root = make_workspace(tmp_path / "shared")  # a disk that both hosts have
    pretrain(root, "--name", "one", *EXACT)
    beside = Path(sys.executable).parent
    running = [
        host.start(
            [
                str(beside / "torchrun"), "--nnodes", "2", "--node_rank", str(number), "--nproc_per_node", "1",
                "--master_addr", hosts[0].address, "--master_port", str(PORT),
                str(beside / "nnssl_pretrain"), *command("--name", "two", *EXACT)[3:],
            ],
            environment(root),
        )
        for number, host in enumerate(hosts)
    ]  # fmt: skip
    said = [process.communicate(timeout=400)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], "\n".join(said)
    assert "2 rank(s)" in said[0]
    torch.testing.assert_close(losses(root, "two"), losses(root, "one"), rtol=0, atol=1e-9)
    assert len(losses(root, "one")) == 6


def test_the_hosts_do_not_see_this_machines_network(hosts: list[Host]) -> None:
    """Otherwise the run above would prove nothing."""
    probe = "import socket; print(sorted(name for _, name in socket.if_nameindex()))"
    for host in hosts:
        said = host.start([sys.executable, "-c", probe], dict(os.environ)).communicate(timeout=60)[0]
        assert said.strip() == str(sorted(["lo", host.link]))
