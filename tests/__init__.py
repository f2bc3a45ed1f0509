import coriolis.keystone  # noqa: F401  # before anything imports keystoneauth1
