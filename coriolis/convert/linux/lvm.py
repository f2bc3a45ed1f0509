"""The filter of devices in lvm.conf: one that admits the old bus only would hide the guest's own volume group. Pure."""

from __future__ import annotations

import re

# An unquoted "[" ends the try: else a file of nothing but beginnings takes time by its square
_FILTER = re.compile(r'(?m)^[ \t]*(?:global_)?filter[ \t]*=[ \t]*\[(?:"[^"\n]*"|[^"\]\[])*\]')
_PATTERN = re.compile(r'"([ar])(.)([^"\n]*)\2"')
_OLD_BUS = re.compile(r"(?<![a-z])(?:sd|hd|xvd|mpath|by-path|by-id|scsi)")
_NEW_BUS = re.compile(r"(?<![a-z])(?:vd|nvme)|\[[a-z]*v[a-z]*\]d")
_REJECT_ALL = frozenset({"", ".", ".*", "^.*", ".*$", "^.*$", ".*/"})
REMARK = "# Switched off by Coriolis: it admitted disks of the old machine only."


def without_old_filters(text: str) -> str:
    """``lvm.conf`` with each filter commented out that rejects all but disks of a bus the guest left."""

    def switched_off(match: re.Match[str]) -> str:
        if not hides_other_buses(match[0]):
            return match[0]
        return "\n".join([REMARK, *(f"# {line}" for line in match[0].splitlines())])

    return _FILTER.sub(switched_off, text)


def hides_other_buses(setting: str) -> bool:
    """Whether a ``filter`` rejects everything but names that only the old hardware gives."""
    patterns = [(match[1], match[3]) for match in _PATTERN.finditer(setting)]
    accepted = [pattern for kind, pattern in patterns if kind == "a"]
    rejects_all = any(kind == "r" and pattern in _REJECT_ALL for kind, pattern in patterns)
    admits_new = any(_NEW_BUS.search(one) or one in _REJECT_ALL for one in accepted)
    return rejects_all and not admits_new and any(_OLD_BUS.search(one) for one in accepted)
