"""Recognises virtual machines and containers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgectl.probe import cpuinfo
from edged.host.files import read_text

if TYPE_CHECKING:
    from pathlib import Path

# What firmware tables of virtual machines say; the first text found in "vendor product" wins.
DMI_NAMES = (
    ("kvm", "kvm"), ("qemu", "qemu"), ("vmware", "vmware"), ("virtualbox", "virtualbox"),
    ("innotek", "virtualbox"), ("xen", "xen"), ("microsoft corporation virtual machine", "hyper-v"),
    ("parallels", "parallels"), ("amazon ec2", "amazon"),
    ("google compute engine", "google"), ("openstack", "openstack"),
    ("bochs", "bochs"), ("digitalocean", "kvm"), ("apple virtualization", "apple"),
)  # fmt: skip
CGROUP_NAMES = (("kubepods", "kubernetes"), ("docker", "docker"), ("libpod", "podman"), ("/lxc", "lxc"))
KUBERNETES_ACCOUNT = "run/secrets/kubernetes.io"


def hypervisor(root: Path) -> str | None:
    """The kind of virtual machine, "vm" when it does not say, None on real hardware."""
    product = read_text(root / "sys/class/dmi/id/product_name") or ""
    vendor = read_text(root / "sys/class/dmi/id/sys_vendor") or ""
    names = f"{vendor} {product}".lower()
    if ".metal" not in product:
        for needle, name in DMI_NAMES:
            if needle in names:
                return name
    if xen := read_text(root / "sys/hypervisor/type"):
        return xen
    guest = any("hypervisor" in cpuinfo.flags(block) for block in cpuinfo.blocks(root)[:1])
    compatible = read_text(root / "proc/device-tree/compatible") or ""
    return "vm" if guest or compatible.startswith("linux,dummy-virt") else None


def container(root: Path) -> str | None:
    """The kind of container this is in, None outside of any."""
    if (root / KUBERNETES_ACCOUNT).is_dir():
        return "kubernetes"
    if (root / "run/.containerenv").exists():
        return "podman"
    if (root / ".dockerenv").exists():
        return "docker"
    if told := read_text(root / "run/systemd/container"):
        return told
    places = read_text(root / "proc/1/cgroup") or ""
    return next((name for needle, name in CGROUP_NAMES if needle in places), None)
