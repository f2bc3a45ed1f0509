"""A real OpenStack (Debian 12's packages, release Zed) on 127.0.0.1, as plain processes: see tests/lab/README.md."""
