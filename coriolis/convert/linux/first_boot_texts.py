"""The texts that run in the guest at its first start: for any /bin/sh, nothing assumed but what every guest has."""

from __future__ import annotations

UNIT = """\
# Written by Coriolis. After everything else, so that it never delays the start.
[Unit]
Description=Coriolis: finish the migration of this machine
After=multi-user.target network.target network-online.target
ConditionPathExists=!/var/lib/coriolis/firstboot/complete

[Service]
Type=oneshot
ExecStart=/bin/sh /usr/local/lib/coriolis/firstboot/run
TimeoutStartSec=7200
Nice=10
IOSchedulingClass=idle

[Install]
WantedBy=multi-user.target
"""

INIT_SCRIPT = """\
#!/bin/sh
# chkconfig: 2345 99 01
# description: Coriolis: finish the migration of this machine
### BEGIN INIT INFO
# Provides:          coriolis-firstboot
# Required-Start:    $local_fs
# Required-Stop:
# Default-Start:     2 3 4 5
# Default-Stop:
# Short-Description: Coriolis: finish the migration of this machine
### END INIT INFO
[ "$1" = start ] || exit 0
[ -e /var/lib/coriolis/firstboot/complete ] && exit 0
nice -n 10 /bin/sh /usr/local/lib/coriolis/firstboot/run </dev/null >/dev/null 2>&1 &
exit 0
"""

RUN = """\
#!/bin/sh
# Written by Coriolis: runs each file of scripts/ once. See /var/log/coriolis-firstboot.log.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
export PATH LC_ALL
umask 022
scripts=/usr/local/lib/coriolis/firstboot/scripts
state=/var/lib/coriolis/firstboot
log=/var/log/coriolis-firstboot.log
max_log_bytes=65536

mkdir -p "$state"
: >>"$log"
chmod 600 "$log"
[ -e "$state/complete" ] && exit 0
left=
for script in "$scripts"/*; do
	[ -f "$script" ] || continue
	name=${script##*/}
	[ -e "$state/$name.done" ] && continue
	case $name in
	*-user-*) most=1 limit=300 ;;
	*) most=3 limit=1800 ;;
	esac
	tries=$(cat "$state/$name.tries" 2>/dev/null)
	tries=${tries:-0}
	if [ "$tries" -ge "$most" ]; then
		echo "$name: given up after $tries times" >>"$log"
		: >"$state/$name.done"
		continue
	fi
	echo $((tries + 1)) >"$state/$name.tries"
	sync
	echo "$(date 2>/dev/null) $name: begins" >>"$log"
	if command -v timeout >/dev/null 2>&1; then
		set -- timeout -k 30 "$limit" "$script"
	else
		set -- "$script"
	fi
	{
		"$@" </dev/null 2>&1
		echo $? >"$state/status"
	} | tail -c "$max_log_bytes" >>"$log"
	status=$(cat "$state/status")
	echo "$(date 2>/dev/null) $name: ended with $status" >>"$log"
	if [ "$status" = 0 ] || [ "$most" = 1 ]; then
		: >"$state/$name.done"
	else
		left="$left $name"
	fi
done
if [ -n "$left" ]; then
	echo "tried again at the next start:$left" >>"$log"
	exit 0
fi
: >"$state/complete"
rm -rf /var/lib/coriolis/packages
rm -f /etc/systemd/system/multi-user.target.wants/coriolis-firstboot.service
rm -f /etc/rc[2345].d/S99coriolis-firstboot /etc/rc.d/rc[2345].d/S99coriolis-firstboot
echo "complete" >>"$log"
"""

REMOVE = """\
# Removes $packages, which belong to the former platform; their services ($units) are masked already.
failed=0
installed() {
	for name in $packages; do
		has "$name" && echo "$name"
	done
}
names=$(installed)
if [ -n "$names" ] && ! purge $names; then
	for name in $names; do
		purge "$name"
	done
	[ -z "$(installed)" ] || failed=1
fi
for program in $uninstallers; do
	if [ -x "$program" ]; then
		"$program" || failed=1
	fi
done
for unit in $units; do
	if [ ! -e "/usr/lib/systemd/system/$unit" ] && [ ! -e "/lib/systemd/system/$unit" ]; then
		mask=/etc/systemd/system/$unit
		[ "$(readlink "$mask" 2>/dev/null)" = /dev/null ] && rm -f "$mask"
	fi
done
exit "$failed"
"""

INSTALL = """\
# Installs $packages: from files that were brought along, then from the guest's own repositories.
failed=0
set -- /var/lib/coriolis/packages/*
if [ -e "$1" ]; then
	install_files "$@" || failed=1
fi
missing=
for name in $packages; do
	has "$name" || missing="$missing $name"
done
if [ -n "$missing" ]; then
	failed=0
	fetch $missing || failed=1
fi
if command -v systemctl >/dev/null 2>&1; then
	for name in $packages; do
		systemctl enable "$name.service" >/dev/null 2>&1 && systemctl start --no-block "$name.service"
	done
fi
exit "$failed"
"""

DPKG = """\
# The guest's package tool, for remove and install.
DEBIAN_FRONTEND=noninteractive
export DEBIAN_FRONTEND
dpkg --force-confold --configure -a
has() {
	case $(dpkg-query -W -f='${Status}' "$1" 2>/dev/null) in
	*" installed") return 0 ;;
	esac
	return 1
}
purge() {
	dpkg --purge "$@"
}
install_files() {
	dpkg --force-confold -i "$@"
}
fetch() {
	apt-get -q -o Acquire::Retries=1 update
	apt-get -y -q -o Dpkg::Options::=--force-confold install --no-install-recommends "$@"
}
"""

RPM = """\
# The guest's package tool, for remove and install.
has() {
	rpm -q --quiet "$1" 2>/dev/null
}
purge() {
	rpm -e "$@"
}
install_files() {
	rpm -U --replacepkgs "$@"
}
fetch() {
	if command -v dnf >/dev/null 2>&1; then
		dnf -y -q install "$@"
	elif command -v zypper >/dev/null 2>&1; then
		zypper --non-interactive install --no-recommends "$@"
	else
		yum -y -q install "$@"
	fi
}
"""

REBUILD = """\
# The initramfs of this kernel, made by the guest's own tool ($program) in place of the one with an archive appended.
version=$(uname -r)
path=
for one in "/boot/initrd.img-$version" "/boot/initramfs-$version.img" "/boot/initrd-$version"; do
	[ -f "$one" ] && path=$one && break
done
[ -n "$path" ] || exit 0
command -v "$program" >/dev/null 2>&1 || exit 0
kept=/var/lib/coriolis/before$path
mkdir -p "${kept%/*}"
cp -p "$path" "$kept.new" || exit 1
mv "$kept.new" "$kept"
size=$(wc -c <"$kept")
if rebuild && [ "$(wc -c <"$path")" -gt $((size / 8)) ]; then
	echo "$path was made anew; the one before is $kept"
	exit 0
fi
cp -p "$kept" "$path"
sync
echo "$path was put back as it was"
exit 1
"""

COMMON = {"run": RUN, "dpkg": DPKG, "rpm": RPM, "remove": REMOVE, "install": INSTALL, "rebuild": REBUILD}
"""The files beside ``scripts/``, by name."""
