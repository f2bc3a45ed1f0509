"""OpenStack's identity and secrets: tokens, trusts, Barbican. Needs the extra ``openstack``.

Import this before keystoneauth1 or openstacksdk: keystoneauth1 loads osprofiler wherever it finds it, and Debian's,
which a virtual environment with system packages sees, brings eventlet and an OpenSSL binding that ours breaks.
"""

from __future__ import annotations

import sys

sys.modules.setdefault("osprofiler", None)  # type: ignore[arg-type]  # None: importing it fails as if it were absent
