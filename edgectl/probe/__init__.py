"""Facts about this computer, one file a group, and the boards edgectl knows."""

from __future__ import annotations

from edgectl.probe.device import probe_device
from edgectl.probe.planned import planned_device
from edgectl.probe.profiles import DeviceProfile, find_profile, load_profiles, match

__all__ = ["DeviceProfile", "find_profile", "load_profiles", "match", "planned_device", "probe_device"]
