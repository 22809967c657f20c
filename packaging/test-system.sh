#!/usr/bin/env bash
# Installs the package in a Debian that boots, beside a real Incus, and uses it as a person would.
#
#   packaging/test-system.sh
#
#   ISOSYNCD_TEST_SUITE     Debian release of the root (default: bookworm)
#   ISOSYNCD_TEST_REQUIRE   with "system" in it: a machine that cannot do this fails instead of skipping
#   ISOSYNCD_TEST_PREVIOUS  a .deb to upgrade from (default: the last release tag, else this source with a lower version)
#
# Every wait is a bounded poll. The last line is "N passed, N failed".
set -uo pipefail # not -e: a point that fails must not hide the others
cd "$(dirname "$0")/.." || exit 1
export LC_ALL=C.UTF-8
. packaging/testroot.sh
. packaging/testpoints.sh

# Real images: Debian ships them (.ci/packages).
images=(/usr/lib/ipxe/ipxe.iso /usr/lib/grub-rescue/grub-rescue-cdrom.iso /usr/lib/memtest86+/memtest86+x64.iso)

missing=
[ "$(id -u)" = 0 ] || missing=" root"
for tool in mmdebstrap systemd-nspawn nsenter dpkg-deb xorriso; do
  command -v "$tool" >/dev/null || missing="$missing $tool"
done
for image in "${images[@]}"; do
  [ -e "$image" ] || missing="$missing $image"
done
if [ -n "$missing" ]; then
  say "SKIPPED, the boot test needs:$missing"
  case ,${ISOSYNCD_TEST_REQUIRE:-}, in *,system,*) exit 1 ;; esac
  exit 0
fi

trap teardown EXIT
trap 'exit 130' INT TERM
work=$(mktemp -d "${TMPDIR:-/var/tmp}/isosyncd-system.XXXXXX") || die "a temporary directory is made"
root=$work/root

say "building the packages"
new=$(packaging/deb.sh) || die "the package is built"
new_version=$(dpkg-deb -f "$new" Version)
cp "$new" "$work/new.deb" || die "the package is there"
previous_package >"$work/previous.log" 2>&1 || { cat "$work/previous.log" >&2; die "the previous package is built"; }
pass "the package is built: $new"

say "making the root"
tarball=$(base_root) || die "a Debian root is made"
mkdir "$root"
tar -C "$root" --numeric-owner --xattrs --xattrs-include='*' -xf "$tarball" || die "the root is unpacked"
cp "$work/new.deb" "$work/previous.deb" "$root/debs/"
install -d "$root/isos"
cp "${images[@]}" "$root/isos/"
# Big enough that its way can be watched, of bytes that no file system shortens.
big_image "$root/isos/big.iso" 768
echo isosyncd-test >"$root/etc/hostname"
boot

points_build
points_install
points_without_server
points_import
points_faults
points_control
points_instance
points_mount
points_reboot
points_upgrade
points_purge
