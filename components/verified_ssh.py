"""DVC's command line, whose SSH connections check the server's key: `python -P components/verified_ssh.py push`.

sshfs takes any server's key (known_hosts=None) and DVC has no setting for it; dvc-ssh also offers the user's agent to
the server. Here the keys are those that `ssh` itself knows: ~/.ssh/known_hosts, or what ~/.ssh/config names
(UserKnownHostsFile, GlobalKnownHostsFile; `UserKnownHostsFile none` turns the check off). The agent is not forwarded.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Any


def verify_hosts() -> None:
    """Make dvc-ssh, where it is installed, ask asyncssh for its own default: refuse a server whose key is not known."""
    if find_spec("dvc_ssh") is None:
        return
    from dvc_ssh import SSHFileSystem

    prepare = SSHFileSystem._prepare_credentials

    def with_known_hosts(self: Any, **config: Any) -> dict[str, Any]:
        login: dict[str, Any] = prepare(self, **config)
        return login | {"known_hosts": (), "agent_forwarding": False}

    SSHFileSystem._prepare_credentials = with_known_hosts


if __name__ == "__main__":
    from dvc.cli import main

    verify_hosts()
    sys.exit(main(sys.argv[1:]))
