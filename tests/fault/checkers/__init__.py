"""Invariants judged on evidence: volumes, libvirt's own lists and logs, etcd's history. Never on what the mesh says."""
