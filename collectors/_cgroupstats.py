"""Task states of a v1 cgroup, asked of the kernel through generic netlink (family TASKSTATS, CGROUPSTATS_CMD_GET).

Source: kernel headers linux/netlink.h, linux/genetlink.h, linux/taskstats.h, linux/cgroupstats.h; accounting/cgroupstats.rst.
No privileges. Kernels without CONFIG_TASKSTATS lack the family, and a container's seccomp rules may refuse netlink.
"""

import errno
import os
import socket
import struct
from typing import NamedTuple

_NETLINK_GENERIC = 16
_GENL_ID_CTRL = 0x10
_CTRL_CMD_GETFAMILY, _CTRL_ATTR_FAMILY_ID, _CTRL_ATTR_FAMILY_NAME = 3, 1, 2
_CGROUPSTATS_CMD_GET, _CGROUPSTATS_CMD_ATTR_FD, _CGROUPSTATS_TYPE_CGROUP_STATS = 4, 1, 1
_NLM_F_REQUEST = 1
_NLMSG_ERROR = 2

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_GENERIC = struct.Struct("=BBH")  # command, version, reserved
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_ERROR = struct.Struct("=i")
_FAMILY = struct.Struct("=H")
_FD = struct.Struct("=I")
_STATS = struct.Struct("=5Q")
_ANSWER_BYTES = 480
"""Room for an answer with figures, which takes 64: so few that the allocator has them at hand."""


class TaskStates(NamedTuple):
    """Tasks of a cgroup by state, those of its children not included. None: not known this way."""

    sleeping: int | None
    running: int | None
    stopped: int | None
    uninterruptible: int | None
    io_waiting: int | None


def request(kind: int, sequence: int, command: int, attribute: int, payload: bytes) -> bytes:
    """One generic netlink message with one attribute."""
    length = _ATTRIBUTE.size + len(payload)
    body = _GENERIC.pack(command, 1, 0) + _ATTRIBUTE.pack(length, attribute) + payload + b"\0" * (-length % 4)
    return _HEADER.pack(_HEADER.size + len(body), kind, _NLM_F_REQUEST, sequence, 0) + body


def attribute(message: bytes, wanted: int) -> bytes:
    """Payload of one attribute of an answer. OSError with the kernel's errno if it refused, EBADMSG for anything else."""
    if len(message) >= _HEADER.size + _GENERIC.size:
        length, kind, _, _, _ = _HEADER.unpack_from(message)
        if kind == _NLMSG_ERROR:
            code = -_ERROR.unpack_from(message, _HEADER.size)[0]
            raise OSError(code, os.strerror(code) if 0 < code < 4096 else "netlink error")
        at, end = _HEADER.size + _GENERIC.size, min(length, len(message))
        while at + _ATTRIBUTE.size <= end:
            size, type_ = _ATTRIBUTE.unpack_from(message, at)
            if size < _ATTRIBUTE.size or at + size > end:
                break
            if type_ == wanted:
                return message[at + _ATTRIBUTE.size : at + size]
            at += size + -size % 4
    raise OSError(errno.EBADMSG, "an answer of netlink is not understood")


class CgroupStats:
    """A netlink socket that answers for cgroup directories. One thread."""

    def __init__(self) -> None:
        """OSError where netlink or the family is not to be had."""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_GENERIC)
        try:
            self._socket.bind((0, 0))
            self._sequence = 0
            answer = self._ask(_GENL_ID_CTRL, _CTRL_CMD_GETFAMILY, _CTRL_ATTR_FAMILY_NAME, b"TASKSTATS\0")
            self._family = _FAMILY.unpack_from(attribute(answer, _CTRL_ATTR_FAMILY_ID))[0]
        except BaseException:
            self._socket.close()
            raise

    def states(self, directory: int) -> TaskStates:
        """Counts for the v1 cgroup directory that is open at this descriptor. OSError if the kernel refuses."""
        answer = self._ask(self._family, _CGROUPSTATS_CMD_GET, _CGROUPSTATS_CMD_ATTR_FD, _FD.pack(directory), _ANSWER_BYTES)
        stats = attribute(answer, _CGROUPSTATS_TYPE_CGROUP_STATS)
        if len(stats) < _STATS.size:
            raise OSError(errno.EBADMSG, "an answer of netlink is too short")
        return TaskStates(*_STATS.unpack_from(stats))

    def close(self) -> None:
        self._socket.close()

    def _ask(self, kind: int, command: int, attribute: int, payload: bytes, most_bytes: int = 8192) -> bytes:
        self._sequence += 1
        self._socket.send(request(kind, self._sequence, command, attribute, payload))
        while True:  # what was left by a call that failed half-way is not ours
            # the kernel answers within send, so there is nothing to wait for
            message = self._socket.recv(most_bytes, socket.MSG_DONTWAIT)
            if len(message) >= _HEADER.size and _HEADER.unpack_from(message)[3] == self._sequence:
                return message
