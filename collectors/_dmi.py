"""Whose virtual machine this is, by what the firmware's tables say of it. Asks no network.

Source: each provider's documentation, cloud-init's ds-identify. SYS/class/dmi/id is world-readable but for uuid and serials.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tidegauge.collectors._sysfs import text

_FIELDS = ("sys_vendor", "product_name", "product_version", "bios_vendor", "chassis_asset_tag")


class Cloud(NamedTuple):
    provider: str | None
    instance_type: str | None


class _Rule(NamedTuple):
    provider: str
    field: str
    start: str
    """How the field begins, whatever the case."""


_RULES = (
    _Rule("AWS", "sys_vendor", "amazon ec2"),
    _Rule("AWS", "bios_vendor", "amazon ec2"),
    _Rule("GCE", "product_name", "google compute engine"),
    # a vendor of "Microsoft Corporation" alone is any Hyper-V guest, and a laptop; cAdvisor took it for Azure
    _Rule("Azure", "chassis_asset_tag", "7783-7084-3265-9085-8269-3286-77"),
    _Rule("Alibaba Cloud", "sys_vendor", "alibaba cloud"),
    _Rule("Oracle Cloud", "chassis_asset_tag", "oraclecloud.com"),
    _Rule("IBM Cloud", "chassis_asset_tag", "ibmcloud"),
    _Rule("Huawei Cloud", "chassis_asset_tag", "huaweicloud"),
    _Rule("Open Telekom Cloud", "chassis_asset_tag", "opentelekomcloud"),
    _Rule("Tencent Cloud", "sys_vendor", "tencent cloud"),
    _Rule("DigitalOcean", "sys_vendor", "digitalocean"),
    _Rule("Hetzner", "sys_vendor", "hetzner"),
    _Rule("Scaleway", "sys_vendor", "scaleway"),
    _Rule("Vultr", "sys_vendor", "vultr"),
    _Rule("UpCloud", "sys_vendor", "upcloud"),
    _Rule("Linode", "sys_vendor", "linode"),
    _Rule("Linode", "sys_vendor", "akamai"),
    _Rule("Exoscale", "product_name", "exoscale"),
    _Rule("OpenStack", "product_name", "openstack"),
)
"""The first that fits holds: OpenStack stands last, since others are built of it."""

_TYPE_IN_PRODUCT_NAME = {"AWS": "sys_vendor", "Scaleway": "sys_vendor"}
"""Providers that write the instance type there, and the field that must have told them: AWS on Xen writes `HVM domU`."""


def cloud(sys: Path) -> Cloud:
    """Provider and instance type; None where the firmware does not tell."""
    return judged({name: text(sys / "class/dmi/id" / name) or "" for name in _FIELDS})


def judged(fields: Mapping[str, str]) -> Cloud:
    """The same from the fields' texts. Pure."""
    for rule in _RULES:
        if fields.get(rule.field, "").lower().startswith(rule.start):
            is_told = _TYPE_IN_PRODUCT_NAME.get(rule.provider) == rule.field
            return Cloud(rule.provider, fields.get("product_name") or None if is_told else None)
    if "amazon" in fields.get("product_version", "").lower():  # Xen: 4.11.amazon
        return Cloud("AWS", None)
    return Cloud(None, None)
