"""Commands with the network cut off, and every address that they try to reach: strace in a network namespace.

    python tests/hardening/traced.py LOG COMMAND...    LOG gets the system calls that reach out

Exit code: COMMAND's; 97 where that is 0 but something beyond this machine was reached out for, which is then printed.
"""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

CALLS = "connect,sendto,sendmsg,sendmmsg"
LOOPBACK_UP = """import fcntl, os, socket, struct, sys
with socket.socket() as any_socket:  # SIOCSIFFLAGS, IFF_UP | IFF_RUNNING
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sH14s", b"lo", 0x41, b""))
os.execvp(sys.argv[1], sys.argv[1:])"""
ADDRESS = re.compile(r'inet_addr\("([^"]+)"\)|inet_pton\(AF_INET6, "([^"]+)"')


def cut_off() -> list[str]:
    """Words before a command so that it sees no network but a loopback of its own."""
    namespace = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--user", "--map-current-user", "--net"]
    return [*namespace, "--", sys.executable, "-I", "-S", "-c", LOOPBACK_UP]


def traced(log: Path) -> list[str]:
    """Words before a command so that `log` gets what it and all that it starts try to reach."""
    quietly = ["-qq", "-e", "signal=none", "--seccomp-bpf"]
    return ["strace", "-f", *quietly, "-e", f"trace={CALLS}", "-A", "-o", str(log)]


def missing() -> str | None:
    """Why this machine cannot do that; None if it can."""
    if shutil.which("strace") is None:
        return "needs strace"
    tried = subprocess.run([*cut_off(), "true"], capture_output=True, text=True, check=False)
    return tried.stderr.strip() or "may not make a network namespace" if tried.returncode else None


def outbound(log: Path) -> list[str]:
    """The system calls of a log that name an address beyond this machine."""

    def beyond(line: str) -> bool:
        found = ADDRESS.search(line)
        return bool(found) and not ipaddress.ip_address(found[1] or found[2]).is_loopback  # type: ignore[index]

    return [line for line in log.read_text("utf-8", errors="replace").splitlines() if beyond(line)]


def main(log: Path, command: list[str]) -> int:
    log.unlink(missing_ok=True)
    code = subprocess.run([*cut_off(), *traced(log), *command], check=False).returncode
    tried = outbound(log)
    if tried:
        print(f"{len(tried)} calls reached out beyond this machine ({log}):", *tried[:5], sep="\n")
    return code or (97 if tried else 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
