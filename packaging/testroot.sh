# The machinery of test-system.sh, to be sourced: makes and boots a Debian root, and asks it questions.
#
# The root is a directory that systemd-nspawn boots, without a network: what it needs comes from this machine's own apt
# sources beforehand. Everything made here is found again by the variables below, and taken down by `teardown`.

suite=${ISOSYNCD_TEST_SUITE:-bookworm}
cache=.cache/test-system
work=    # temporary directory of this run
root=    # the booted root
nspawn=  # pid of systemd-nspawn
console= # its output
passed=0
failed=0

# Packages of the root, and those that only lie in /debs of it: the test installs Incus itself, after isosyncd.
base_packages=(systemd systemd-sysv dbus init-system-helpers man-db procps fuse3 ca-certificates)
later_packages=(incus-base incus-client)

say() { printf '%s\n' "$*" >&2; }
pass() {
  passed=$((passed + 1))
  say "PASS $*"
}
fail() {
  failed=$((failed + 1))
  say "FAIL $*"
}

# die ends the run: what follows would only fail for the same reason.
die() {
  fail "$*"
  exit 1
}

# sources prints deb lines for the suite, with the mirrors that this machine uses.
sources() {
  local main security
  main=$(apt-get indextargets --format '$(SITE) $(RELEASE)' 'Created-By: Packages' | awk '$2 ~ /^[a-z]+$/ && $1 ~ /\/debian$/ {print $1; exit}')
  security=$(apt-get indextargets --format '$(SITE) $(RELEASE)' 'Created-By: Packages' | awk '$2 ~ /-security$/ {print $1; exit}')
  [ -n "$main" ] || { say "no Debian mirror among this machine's apt sources"; return 1; }
  echo "deb $main $suite main"
  echo "deb $main $suite-updates main"
  [ -z "$security" ] || echo "deb $security $suite-security main"
  # Incus is in Debian from trixie on.
  [ "$suite" != bookworm ] || echo "deb $main bookworm-backports main"
}

# base_root makes the root as a tarball, at most once a day for the same packages, and prints its name.
base_root() {
  local list tarball
  list=$(sources) || return 1
  tarball=$cache/$suite-$(printf '%s\n' "$list" "${base_packages[@]}" -- "${later_packages[@]}" | sha256sum | cut -c1-12)-$(date -u +%F).tar
  if [ ! -e "$tarball" ]; then
    mkdir -p "$cache"
    rm -f "$cache/$suite"-*.tar "$cache/$suite"-*.tar.part
    local all
    printf -v all '%s,' "${base_packages[@]}"
    # Hooks see the new root as $1; apt works on it through $MMDEBSTRAP_APT_CONFIG.
    printf '%s\n' "$list" | mmdebstrap --quiet --mode=root --variant=minbase --format=tar --include="${all%,}" \
      --customize-hook='mkdir -p "$1/debs/partial"' \
      --customize-hook="APT_CONFIG=\$MMDEBSTRAP_APT_CONFIG apt-get install -q -y --download-only --no-install-recommends -o Dir::Cache::archives=\"\$1/debs\" ${later_packages[*]}" \
      --customize-hook='rm -rf "$1/debs/partial" "$1/debs/lock"' \
      "$suite" "$tarball.part" - >&2 || return 1
    mv "$tarball.part" "$tarball"
  fi
  echo "$tarball"
}

# boot starts the root, and returns when its systemd has done so.
boot() {
  console=$work/console.log
  # No machined, no scope: nothing of the host's systemd is needed, nor does it have to be one. All capabilities, for a
  # daemon of containers in a container that is thrown away. nspawn keeps things in /run/systemd/nspawn and does not
  # clean up where that is no tmpfs: it gets one that nobody else sees. /dev/fuse is made as udev does it, for everybody,
  # because this machine may be a container without udev.
  mkdir -p /run/systemd/nspawn
  # shellcheck disable=SC2016 # expanded by the inner shell
  unshare --mount --propagation private -- sh -c 'mount -t tmpfs tmpfs /run/systemd/nspawn && mknod -m 666 /run/systemd/nspawn/fuse c 10 229 && exec "$@"' sh \
    systemd-nspawn --quiet --boot --register=no --keep-unit --settings=no --link-journal=no --directory="$root" \
    --machine="isosyncd-test-$$" --private-network --resolv-conf=off --timezone=off --capability=all \
    --bind=/run/systemd/nspawn/fuse:/dev/fuse --console=pipe </dev/null >>"$console" 2>&1 &
  nspawn=$!
  until_ 120 "the root has booted" booted || { tail -n 40 "$console" >&2; die "no root to test in"; }
}

# reboot_root lets the root reboot itself. Without a scope of its own nspawn ends with 133, for whoever started it.
reboot_root() {
  inside systemctl reboot
  until_ 90 "the root goes down" gone "$nspawn" || return 1
  wait "$nspawn"
  [ $? = 133 ] || { say "the root did not reboot, it ended"; return 1; }
  boot
}

gone() { ! kill -0 "$1" 2>/dev/null; }

# leader is the pid of the root's first process, as seen from here. A reboot changes it.
leader() { pgrep -P "$nspawn" | head -n 1; }

booted() {
  local state
  state=$(inside systemctl is-system-running 2>/dev/null || true)
  [ "$state" = running ] || [ "$state" = degraded ]
}

# inside runs a command in the root, as root.
inside() {
  local pid
  pid=$(leader)
  [ -n "$pid" ] || return 125
  nsenter --target "$pid" --mount --uts --ipc --net --pid --cgroup --wdns=/ -- \
    env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 PAGER=cat SYSTEMD_COLORS=0 \
    DEBIAN_FRONTEND=noninteractive "$@" </dev/null
}

# sh_ runs a line of shell in the root.
sh_() { inside sh -c "$1"; }

# until_ SECONDS WHAT COMMAND...: asks until the command succeeds; says so and fails when it never does.
until_() {
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >"$work/last" 2>&1; do
    if [ $SECONDS -ge $end ]; then
      say "waited in vain until $what; the last answer was:"
      tail -n 15 "$work/last" | sed 's/^/    /' >&2
      return 1
    fi
    sleep 0.3
  done
}

# check WHAT COMMAND...: one point of the test.
check() {
  local what=$1
  shift
  if "$@" >"$work/last" 2>&1; then
    pass "$what"
  else
    fail "$what"
    tail -n 15 "$work/last" | sed 's/^/    /' >&2
    return 1
  fi
}

# eventually SECONDS WHAT COMMAND...: one point that may take a while.
eventually() {
  local seconds=$1 what=$2
  shift 2
  if until_ "$seconds" "$what" "$@"; then pass "$what"; else
    fail "$what"
    return 1
  fi
}

stop_root() {
  [ -n "$nspawn" ] || return 0
  kill -TERM "$nspawn" 2>/dev/null || true # nspawn passes it on as "power off"
  for _ in $(seq 100); do
    kill -0 "$nspawn" 2>/dev/null || break
    sleep 0.3
  done
  if kill -0 "$nspawn" 2>/dev/null; then
    local pid
    pid=$(leader)
    # The first process of the pid namespace takes all others with it.
    [ -z "$pid" ] || kill -KILL "$pid" 2>/dev/null || true
    kill -KILL "$nspawn" 2>/dev/null || true
  fi
  wait "$nspawn" 2>/dev/null || true
  nspawn=
}

# journal of the root, for whoever has to find out why.
show_trouble() {
  [ "$failed" -gt 0 ] && [ -n "$nspawn" ] || return 0
  say "--- journal of isosyncd"
  sh_ 'journalctl --no-pager -o short-monotonic -u "isosyncd*" | tail -n 80' >&2 || true
}

teardown() {
  local status=$?
  trap - EXIT INT TERM
  show_trouble
  stop_root
  if [ -n "$work" ]; then
    if grep -qF " $(realpath "$work")/" /proc/self/mountinfo; then
      say "something is still mounted below $work: it stays"
      status=1
    else
      rm -rf --one-file-system -- "$work"
    fi
  fi
  say "$passed passed, $failed failed"
  [ "$failed" -eq 0 ] && [ "$passed" -gt 0 ] || status=1
  exit "$status"
}
