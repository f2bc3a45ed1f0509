"""The services' configuration files."""

from __future__ import annotations

import base64
import os

from tests.lab.openstack.settings import (
    CEPH,
    CEPH_SECRET,
    HOST,
    NEUTRON_END,
    PASSWORD,
    PORTS,
    PROCESSES,
    REGION,
    SOCKETS,
    TOKEN_S,
    VIRT,
    db_url,
    home,
    once,
    url,
    write,
)

EMULATED = """\
from nova.virt.libvirt import config
config.LibvirtConfigGuestFeatureHyperV.format_dom = config.LibvirtConfigGuestFeature.format_dom
"""
"""In the program of nova-compute: Nova gives Windows guests Hyper-V's interfaces, which QEMU has with KVM alone."""
UNCOUNTED = """\
from cinder.volume.drivers import rbd
rbd.RBDDriver._get_pool_stats = lambda driver: ("unknown", "unknown")
"""
"""In the program of cinder-volume: a Ceph without a manager daemon lists no pools in its statistics, and the driver
breaks on that. This is what it says itself where Ceph tells it nothing."""
CHANGES = {"nova-compute": EMULATED, **({"cinder-volume": UNCOUNTED} if CEPH else {})}


def ini(path, sections):
    lines = []
    for section, options in sections.items():
        lines += [f"[{section}]"] + [f"{k} = {v}" for k, v in options.items()] + [""]
    write(path, "\n".join(lines))


def auth(user):
    return {
        "auth_type": "password",
        "auth_url": url("keystone", "/v3"),
        "username": user,
        "password": PASSWORD,
        "project_name": "service",
        "user_domain_name": "Default",
        "project_domain_name": "Default",
        "region_name": REGION,
    }


def token_check(user):
    return {
        **auth(user),
        "www_authenticate_uri": url("keystone"),
        "interface": "public",
        "service_token_roles": "service",
        "service_token_roles_required": "true",
    }


def database(name):
    return {"connection": db_url(name), "max_pool_size": 10, "max_overflow": 20}


def service_user(user):
    return {**auth(user), "send_service_user_token": "true"}


def locks(service):
    return {"oslo_concurrency": {"lock_path": home("data", service, "lock")}}


def ceph_backend():
    return {
        "volume_driver": "cinder.volume.drivers.rbd.RBDDriver",
        "volume_backend_name": "rbd",
        "rbd_pool": "volumes",
        "rbd_user": "cinder",
        "rbd_ceph_conf": f"{CEPH}/ceph.conf",
        "rbd_secret_uuid": CEPH_SECRET,
    }


def write_configuration():
    rabbit = f"rabbit://guest:guest@127.0.0.1:{PORTS['rabbit']}/"
    kek = once(home("data/barbican.kek"), lambda: base64.b64encode(os.urandom(32)).decode()).strip()
    quiet = {"default_log_levels": "sqlalchemy=WARN,amqp=WARN,oslo.messaging=INFO,keystonemiddleware=WARN,urllib3=WARN"}

    ini(
        home("etc/keystone/keystone.conf"),
        {
            "DEFAULT": {"use_stderr": "true"},
            "database": database("keystone"),
            "token": {"provider": "fernet", "expiration": TOKEN_S},
            "fernet_tokens": {"key_repository": home("data/keystone/fernet")},
            "fernet_receipts": {"key_repository": home("data/keystone/fernet")},  # its default is in /etc
            "credential": {"key_repository": home("data/keystone/credential")},
            "identity": {"password_hash_rounds": 4},  # a test cloud: cheap bcrypt
        },
    )
    # barbican takes no --config-file: it looks in ~/.barbican, and HOME is ours
    ini(
        home("home/.barbican/barbican.conf"),
        {
            "DEFAULT": {
                "sql_connection": db_url("barbican"),
                "host_href": url("barbican"),
                "db_auto_create": "false",
                "use_stderr": "true",
                "max_allowed_secret_in_bytes": 65536,
                "max_allowed_request_size_in_bytes": 131072,
            },
            "secretstore": {"enabled_secretstore_plugins": "store_crypto"},
            "crypto": {"enabled_crypto_plugins": "simple_crypto"},
            "simple_crypto_plugin": {"kek": f"'{kek}'"},
            "keystone_authtoken": token_check("barbican"),
        },
    )
    ini(
        home("etc/glance/glance-api.conf"),
        {
            "DEFAULT": {
                "bind_host": "127.0.0.1",
                "bind_port": PORTS["glance"],
                "workers": 0,
                "enabled_backends": "file:file",
                "use_stderr": "true",
                "node_staging_uri": "file://" + home("data/glance/staging"),
            },
            "glance_store": {"default_backend": "file"},
            "file": {"filesystem_store_datadir": home("data/glance/images")},
            "os_glance_staging_store": {"filesystem_store_datadir": home("data/glance/staging")},
            "os_glance_tasks_store": {"filesystem_store_datadir": home("data/glance/tasks")},
            "database": database("glance"),
            "paste_deploy": {"flavor": "keystone", "config_file": "/etc/glance/glance-api-paste.ini"},
            "keystone_authtoken": token_check("glance"),
            **locks("glance"),
        },
    )
    ini(
        home("etc/placement/placement.conf"),
        {
            "DEFAULT": {"use_stderr": "true"},
            "api": {"auth_strategy": "keystone"},
            "placement_database": database("placement"),
            "keystone_authtoken": token_check("placement"),
        },
    )
    write(home("etc/cinder/nfs_shares"), f"127.0.0.1:{home('data/cinder/share')}\n")
    ini(
        home("etc/cinder/cinder.conf"),
        {
            "DEFAULT": {
                "host": HOST,
                "my_ip": "127.0.0.1",
                "auth_strategy": "keystone",
                "transport_url": rabbit,
                "enabled_backends": "nfs,rbd" if CEPH else "nfs",
                "state_path": home("data/cinder"),
                "osapi_volume_workers": 1,
                "osapi_volume_listen": "127.0.0.1",
                "osapi_volume_listen_port": PORTS["cinder"],
                "api_paste_config": "/etc/cinder/api-paste.ini",
                "resource_query_filters_file": "/etc/cinder/resource_filters.json",
                "rootwrap_config": "/etc/cinder/rootwrap.conf",
                "glance_api_servers": url("glance"),
                "use_stderr": "true",
                "image_conversion_dir": home("data/cinder/conversion"),
                **quiet,
            },
            "nfs": {
                "volume_driver": "cinder.volume.drivers.nfs.NfsDriver",
                "volume_backend_name": "nfs",
                "nfs_shares_config": home("etc/cinder/nfs_shares"),
                "nfs_mount_point_base": home("mnt/cinder"),
                "nfs_snapshot_support": "true",
                "nas_secure_file_operations": "false",
                "nas_secure_file_permissions": "false",
            },
            **({"rbd": ceph_backend()} if CEPH else {}),
            "database": database("cinder"),
            "keystone_authtoken": token_check("cinder"),
            "service_user": service_user("cinder"),
            "nova": {**auth("nova"), "interface": "public"},
            **locks("cinder"),
        },
    )
    ini(
        home("etc/neutron/neutron.conf"),
        {
            "DEFAULT": {
                "host": HOST,
                "bind_host": "127.0.0.1",
                "bind_port": PORTS["neutron"],
                "core_plugin": "ml2",
                "service_plugins": "router",
                "auth_strategy": "keystone",
                "transport_url": rabbit,
                "api_workers": 0,
                "rpc_workers": 1,
                "rpc_state_report_workers": 0,
                "state_path": home("data/neutron"),
                "use_stderr": "true",
                "api_paste_config": "/etc/neutron/api-paste.ini",
                "agent_down_time": 75,
                **quiet,
            },
            "experimental": {"linuxbridge": "true"},
            "agent": {"root_helper": "sudo", "report_interval": 15},
            "database": database("neutron"),
            "keystone_authtoken": token_check("neutron"),
            "nova": auth("nova"),
            "placement": auth("placement"),
            **locks("neutron"),
        },
    )
    ini(
        home("etc/neutron/ml2.ini"),
        {
            "ml2": {
                "type_drivers": "flat,local",
                "tenant_network_types": "local",
                "mechanism_drivers": "linuxbridge",
                "extension_drivers": "port_security",
            },
            "ml2_type_flat": {"flat_networks": "public"},
        },
    )
    ini(
        home("etc/neutron/linuxbridge.ini"),
        {
            "DEFAULT": {"rpc_response_timeout": 10},
            "linux_bridge": {"physical_interface_mappings": f"public:{NEUTRON_END}"},
            "vxlan": {"enable_vxlan": "false"},
            "securitygroup": {"firewall_driver": "iptables", "enable_ipset": "true"},
        },
    )
    ini(
        home("etc/neutron/dhcp.ini"),
        {
            "DEFAULT": {
                "rpc_response_timeout": 10,
                "interface_driver": "linuxbridge",
                "enable_isolated_metadata": "false",
                "resync_interval": 5,
            },
        },
    )
    virt = {"compute_driver": "fake.FakeDriver"} if VIRT == "fake" else {"compute_driver": "libvirt.LibvirtDriver"}
    ini(
        home("etc/nova/nova.conf"),
        {
            "DEFAULT": {
                "host": HOST,
                "my_ip": "127.0.0.1",
                "transport_url": rabbit,
                "state_path": home("data/nova"),
                "instances_path": home("data/nova/instances"),
                "osapi_compute_listen": "127.0.0.1",
                "osapi_compute_listen_port": PORTS["nova"],
                "osapi_compute_workers": 1,
                "use_stderr": "true",
                "rootwrap_config": "/etc/nova/rootwrap.conf",
                "reserved_host_memory_mb": 0,
                "cpu_allocation_ratio": 16,
                "ram_allocation_ratio": 4,
                "disk_allocation_ratio": 10,
                "vif_plugging_timeout": 120,
                "block_device_allocate_retries": 300,
                # stop powers the guests off; start brings back those that ran
                "resume_guests_state_on_host_boot": "true",
                **virt,
                **quiet,
            },
            "api": {"auth_strategy": "keystone"},
            "wsgi": {"api_paste_config": "/etc/nova/api-paste.ini"},
            "api_database": database("nova_api"),
            "database": database("nova"),
            "keystone_authtoken": token_check("nova"),
            "service_user": service_user("nova"),
            "glance": {"endpoint_override": url("glance")},
            "cinder": {**auth("cinder"), "catalog_info": "volumev3::publicURL", "os_region_name": REGION},
            "neutron": {**auth("neutron"), "endpoint_override": url("neutron")},
            "placement": {**auth("placement"), "endpoint_override": url("placement")},
            "key_manager": {"backend": "barbican"},
            "barbican": {"auth_endpoint": url("keystone", "/v3"), "barbican_endpoint": url("barbican")},
            "conductor": {"workers": 1},
            "scheduler": {"workers": 1},
            "vnc": {"enabled": "true", "server_listen": "127.0.0.1", "server_proxyclient_address": "127.0.0.1"},
            "libvirt": {
                "virt_type": "kvm" if VIRT == "kvm" else "qemu",
                "cpu_mode": "none",
                "images_type": "qcow2",
                "nfs_mount_point_base": home("mnt/nova"),
            },
            **locks("nova"),
        },
    )
    write(
        home("etc/rabbitmq/rabbitmq.conf"),
        f"listeners.tcp.1 = 127.0.0.1:{PORTS['rabbit']}\n"
        "vm_memory_high_watermark.relative = 0.2\ndisk_free_limit.absolute = 50MB\n",
    )
    write(home("etc/rabbitmq/enabled_plugins"), "[].\n")
    write(home("etc/libvirtd.conf"), 'auth_unix_rw = "none"\nauth_unix_ro = "none"\nunix_sock_rw_perms = "0700"\n')

    for processes in PROCESSES.values():
        for name, module in processes.items():
            if module:
                change = CHANGES.get(name, "")
                text = f"#!/usr/bin/python3\nimport sys\nfrom {module} import main\n{change}sys.exit(main())\n"
                write(home("bin", name), text, 0o755)
    for d in [
        "run",
        "log",
        "done",
        "data/mysql",
        "data/glance/images",
        "data/glance/staging",
        "data/glance/tasks",
        "data/cinder/share",
        "data/cinder/conversion",
        "data/nova/instances",
        "data/neutron",
        "data/rabbitmq",
        "data/keystone",
        "mnt/cinder",
        "mnt/nova",
    ]:
        os.makedirs(home(d), exist_ok=True)
    os.makedirs(SOCKETS, mode=0o700, exist_ok=True)
