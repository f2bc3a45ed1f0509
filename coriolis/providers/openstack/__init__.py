"""OpenStack: Nova, Cinder, Glance and Neutron through openstacksdk (the extra ``openstack``)."""

import coriolis.keystone  # noqa: F401  # before keystoneauth1 and openstacksdk, as it says
