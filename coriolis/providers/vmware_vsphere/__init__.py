"""VMware vSphere: a vCenter, or one ESXi host, through pyvmomi (the extra ``vsphere``)."""
