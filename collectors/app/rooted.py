"""Reads a file inside a container, beneath its root: a short-lived process, since a container's file system may never answer.

Run by its path, `python -I -S rooted.py PROC PID CGROUP FILE`, so it imports nothing of ours. The content goes to standard
output; exit code 1 with the reason on standard error.

The process that shows the root is held by a descriptor of its /proc folder, so that its number cannot pass to another, and must
be in the container's cgroup or one below it. The kernel resolves the path within the root (openat2, RESOLVE_IN_ROOT): no link
and no `..` leads out, and links of the kernel's own (/proc/self/root) are refused. The file is looked at before it is opened,
so that no device is, and nothing that is no file of a file system made for files: in procfs, sysfs, tracefs, cgroups and their
like even a reading may do something (/proc/kmsg is emptied by it), and root of the host would do it.
Source: openat2(2), fstatfs(2). Privileges: CAP_SYS_PTRACE for /proc/PID/root.
"""

import ctypes
import os
import stat
import sys

MAX_BYTES = 65536
_OPENAT2 = 437
"""The same on every architecture, since Linux 5.6."""
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_IN_ROOT = 0x10
_MAX_PATH = 4095
_FILE_SYSTEMS = frozenset(
    (
        0xEF53,  # ext2, ext3, ext4
        0x58465342,  # xfs
        0x9123683E,  # btrfs
        0xCA451A4E,  # bcachefs
        0xF2F52010,  # f2fs
        0x2FC12FC1,  # zfs
        0x3153464A,  # jfs
        0x52654973,  # reiserfs
        0x3434,  # nilfs2
        0x794C7630,  # overlayfs
        0x61756673,  # aufs
        0x01021994,  # tmpfs, where Kubernetes puts config maps and secrets
        0x858458F6,  # ramfs
        0x73717368,  # squashfs
        0xE0F5E1E2,  # erofs
        0x9660,  # iso9660
        0x4D44,  # vfat
        0x65735546,  # fuse: fuse-overlayfs of rootless engines, virtiofs
        0x01021997,  # 9p
        0x6969,  # nfs
        0xFF534D42,  # cifs
        0xFE534D42,  # smb2
        0x00C36400,  # ceph
        0x47504653,  # gpfs
        0x0BD00BD0,  # lustre
        0x01161970,  # gfs2
        0x7461636F,  # ocfs2
    )
)
"""What statfs(2) says of those made for files. None is made by the kernel out of its own state."""


class Unreadable(Exception):
    """It is not read, and the text says why."""


class _How(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


def read(proc: str, pid: int, cgroup: str, file: str) -> bytes:
    """Content of a regular file of at most MAX_BYTES, as the container names it. Unreadable with the reason."""
    process = _open(f"{proc}/{pid}", os.O_PATH | os.O_DIRECTORY)
    try:
        if not _is_in(process, cgroup):
            raise Unreadable("the process that the runtime names is not in the container")
        root = _open("root", os.O_PATH | os.O_DIRECTORY, process)
        try:
            return read_beneath(root, file)
        finally:
            os.close(root)
    finally:
        os.close(process)


def read_beneath(root: int, file: str) -> bytes:
    """The same beneath a folder that is open."""
    if not 0 < len(os.fsencode(file)) <= _MAX_PATH or "\0" in file:
        raise Unreadable("its path is none")
    found = _open_in_root(root, file)
    try:
        if not stat.S_ISREG(os.fstat(found).st_mode):
            raise Unreadable("it is no regular file")
        if (kind := _file_system(found)) not in _FILE_SYSTEMS:
            raise Unreadable(f"its file system ({kind:#x}) is not one of those made for files")
        fd = _open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            content = b""
            while len(content) <= MAX_BYTES and (more := os.read(fd, MAX_BYTES + 1 - len(content))):
                content += more
        finally:
            os.close(fd)
    finally:
        os.close(found)
    if len(content) > MAX_BYTES:
        raise Unreadable(f"it is longer than {MAX_BYTES} bytes")
    return content


def _open_in_root(root: int, file: str) -> int:
    how = _How(os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    libc = ctypes.CDLL(None, use_errno=True)
    fd: int = libc.syscall(
        ctypes.c_long(_OPENAT2),
        ctypes.c_int(root),
        ctypes.c_char_p(os.fsencode(file)),
        ctypes.byref(how),
        ctypes.c_size_t(ctypes.sizeof(how)),
    )
    if fd < 0:
        error = ctypes.get_errno()
        if error in (38, 1):  # ENOSYS; EPERM where a seccomp filter does not know it
            raise Unreadable("this kernel has no openat2 (Linux 5.6), or a filter forbids it")
        raise Unreadable(os.strerror(error))
    return fd


def _file_system(fd: int) -> int:
    """Number of the kind of file system that the file lies on; the file need not be open for reading."""
    told = (ctypes.c_long * 64)()  # more than the structure takes anywhere; its first field is the kind
    if ctypes.CDLL(None, use_errno=True).fstatfs(ctypes.c_int(fd), ctypes.byref(told)):
        raise Unreadable(os.strerror(ctypes.get_errno()))
    return int(told[0]) & 0xFFFFFFFF


def _open(path: str, flags: int, folder: "int | None" = None) -> int:
    try:
        return os.open(path, flags | os.O_CLOEXEC, dir_fd=folder)
    except OSError as exc:
        raise Unreadable(f"{path}: {exc.strerror}") from None


def _is_in(process: int, cgroup: str) -> bool:
    fd = _open("cgroup", os.O_RDONLY, process)
    try:
        raw = b""
        while more := os.read(fd, 65536):
            raw += more
    except OSError as exc:
        raise Unreadable(f"cgroup: {exc.strerror}") from None
    finally:
        os.close(fd)
    wanted = os.fsencode(cgroup)
    paths = [line.split(b":", 2)[2] for line in raw.split(b"\n") if line.count(b":") >= 2]
    return any(path == wanted or path.startswith(wanted + b"/") for path in paths)


def main(arguments: "list[str]") -> int:
    try:
        content = read(arguments[0], int(arguments[1]), arguments[2], arguments[3])
    except (Unreadable, OSError) as exc:
        sys.stderr.write(str(exc))
        return 1
    sys.stdout.buffer.write(content)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
