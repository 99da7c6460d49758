"""Runs a command in a small Linux VM with cgroup v2 alone, or with v1's joint mounts, on any machine with QEMU.

The guest is Debian's kernel, taken from its package without installing it and kept in a cache. Its root is this machine's root,
read only over 9p below an overlay in RAM, so that the same Python, tests and paths work inside. QEMU emulates the CPU: KVM is
not needed, and where `/dev/kvm` only seems to work nothing hangs. No root is needed either. The guest has no network, one empty
disk of 64 MiB (`/dev/vda`) and two CPUs.

Three serial lines carry the kernel's messages, the command's output and its status out of the guest, each into a file.
"""

import gzip
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "tidegauge-vm"
KERNEL = "linux-image-amd64"
"""Debian's package that depends on its newest kernel."""
TOOLS = ("qemu-system-x86_64", "busybox", "modprobe", "depmod", "apt-get", "dpkg")
MODULES = ("virtio_pci", "virtio_blk", "9pnet_virtio", "9p", "overlay", "veth", "ext4", "quota_v2")
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_INIT = Path(__file__).with_name("guest_init.sh")


class VmError(Exception):
    """The VM could not be made, or did not come back with a status."""


class Finished(NamedTuple):
    status: int
    output: str


def missing_tools() -> list[str]:
    """Programs that are needed and not installed."""
    return [tool for tool in TOOLS if shutil.which(tool, path=_PATH) is None]


def run(command: list[str], hierarchy: str, timeout_s: float) -> Finished:
    """Boots a VM whose cgroup hierarchy is `v2` or `v1`, runs the command in this folder, and powers off."""
    kernel_root, version = _kernel()
    with tempfile.TemporaryDirectory(prefix="tidegauge-vm-") as folder:
        work = Path(folder)
        (work / "initrd").write_bytes(gzip.compress(_initramfs(work, kernel_root, version, command, hierarchy), 1))
        with open(work / "disk", "wb") as disk:
            disk.truncate(64 << 20)
        lines = [work / name for name in ("console", "output", "status")]
        options = "console=ttyS0 quiet panic=-1 psi=1 mitigations=off random.trust_cpu=on"
        qemu = [
            *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1024"),
            *("-nodefaults", "-nographic", "-no-reboot"),
            *("-kernel", str(kernel_root / f"boot/vmlinuz-{version}"), "-initrd", str(work / "initrd")),
            *("-append", options if hierarchy == "v1" else f"{options} cgroup_no_v1=all"),
            *("-fsdev", "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap"),
            *("-device", "virtio-9p-pci,fsdev=root,mount_tag=hostroot"),
            *("-drive", f"file={work / 'disk'},if=none,id=disk,format=raw,cache=unsafe"),
            *("-device", "virtio-blk-pci,drive=disk"),
            *(word for line in lines for word in ("-serial", f"file:{line}")),
        ]
        try:
            done = subprocess.run(qemu, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False)
        except subprocess.TimeoutExpired as exc:
            raise VmError(f"the VM took more than {timeout_s} s; it said:\n{_texts(lines)}") from exc
        status = lines[2].read_text().strip()
        if not status.isdigit():
            raise VmError(f"no status came from the VM; QEMU: {done.stderr.decode(errors='replace')}\n{_texts(lines)}")
        return Finished(int(status), lines[1].read_text(errors="replace"))


def _texts(lines: list[Path]) -> str:
    return "\n".join(line.read_text(errors="replace")[-3000:] for line in lines[:2] if line.exists())


def has_kernel() -> bool:
    """Whether a kernel is there or can be had. Ubuntu has none of that name, and keeps 9p in another package."""
    return any((CACHE / "root").glob("boot/vmlinuz-*")) or _kernel_package() is not None


def _kernel_package() -> str | None:
    done = subprocess.run(["apt-cache", "depends", KERNEL], capture_output=True, text=True, check=False)
    return next((d.split()[-1] for d in done.stdout.splitlines() if "Depends: linux-image-" in d), None)


def _kernel() -> tuple[Path, str]:
    """Folder and version of the unpacked kernel, fetched from the system's package source at the first use."""
    root = CACHE / "root"
    if not any(root.glob("boot/vmlinuz-*")):
        CACHE.mkdir(parents=True, exist_ok=True)
        package = _kernel_package()
        if package is None:
            raise VmError(f"the package source knows no {KERNEL}")
        _output("apt-get", "download", package)
        (archive,) = CACHE.glob("linux-image-*.deb")
        _output("dpkg", "-x", str(archive), str(root))
        archive.unlink()
    version = next(root.glob("boot/vmlinuz-*")).name.removeprefix("vmlinuz-")
    if not (root / f"lib/modules/{version}/modules.dep").exists():
        _output("depmod", "-b", str(root), version)
    return root, version


def _initramfs(work: Path, kernel_root: Path, version: str, command: list[str], hierarchy: str) -> bytes:
    """A cpio archive: busybox, modules in the order of loading, init, and the job."""
    tree = work / "tree"
    (tree / "modules").mkdir(parents=True)
    busybox = shutil.which("busybox", path=_PATH)
    assert busybox is not None
    shutil.copy(busybox, tree / "busybox")
    shutil.copy(_INIT, tree / "init")
    (tree / "init").chmod(0o755)
    wanted: dict[str, None] = {}
    for module in MODULES:
        for line in _output("modprobe", "-S", version, "-d", str(kernel_root), "--show-depends", module).splitlines():
            kind, path = line.split()[:2]
            if kind == "insmod":
                wanted[path] = None
    for number, path in enumerate(wanted):
        shutil.copy(path, tree / f"modules/{number:02}-{Path(path).name}")
    environment = {name: os.environ[name] for name in ("HOME", "PATH") if name in os.environ}
    environment |= {"LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1", "TIDEGAUGE_TESTS_STRICT": "1"}
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items())
    (tree / "job").write_text(f"{exports}cd {shlex.quote(os.getcwd())} && exec {shlex.join(command)}\n")
    (tree / "hierarchy").write_text(hierarchy)
    names = "\n".join(str(p.relative_to(tree)) for p in [*sorted(tree.rglob("*"))])
    packed = subprocess.run(
        [busybox, "cpio", "-o", "-H", "newc"], cwd=tree, input=names.encode(), capture_output=True, check=True
    )
    return packed.stdout


def _output(*command: str) -> str:
    done = subprocess.run(
        command, cwd=CACHE, env=os.environ | {"PATH": _PATH, "LC_ALL": "C"}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise VmError(f"{shlex.join(command)}: {done.stderr.strip()}")
    return done.stdout
