# The points of test-system.sh, to be sourced: each function is one chapter, in the order of a package's life.

drop=/srv/iso-drop
pool=default

# previous_package puts the package to upgrade from at $work/previous.deb.
previous_package() {
  local tag
  if [ -n "${ISOSYNCD_TEST_PREVIOUS:-}" ]; then
    cp "$ISOSYNCD_TEST_PREVIOUS" "$work/previous.deb"
  elif tag=$(git describe --tags --abbrev=0 --match 'v[0-9]*' HEAD^ 2>/dev/null); then
    mkdir "$work/previous"
    git archive "$tag" | tar -x -C "$work/previous"
    (cd "$work/previous" && VERSION=${tag#v} SOURCE_DATE_EPOCH=0 packaging/deb.sh)
    cp "$work"/previous/dist/isosyncd_*.deb "$work/previous.deb"
  else
    # The same source under a version that sorts before every other.
    copy_source "$work/previous"
    (cd "$work/previous" && VERSION=0~0 SOURCE_DATE_EPOCH=0 packaging/deb.sh)
    cp "$work"/previous/dist/isosyncd_*.deb "$work/previous.deb"
  fi
}

# copy_source DIR copies what belongs to the source, also what is not committed yet.
copy_source() {
  mkdir "$1"
  git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' f; do
    [ ! -e "$f" ] || printf '%s\0' "$f"
  done | tar -c --null -T - | tar -x -C "$1"
}

# big_image FILE MIB makes an ISO image around a file of random bytes.
big_image() {
  mkdir "$work/big"
  head -c "$(($2 << 20))" /dev/urandom >"$work/big/random"
  xorriso -as mkisofs -quiet -V BIG -o "$1" "$work/big" 2>/dev/null
  rm -rf "$work/big"
}

# volume NAME: what the server says of it.
volume() { inside incus query "/1.0/storage-pools/$pool/volumes/custom/$1"; }

# marked NAME: the volume is there, and carries our mark, which is only written once its bytes are known to be good.
marked() { volume "$1" | grep -q '"description":.*\[isosyncd '; }

# born NAME: when the server made it. Another one of the same name was born later.
born() { volume "$1" | grep -o '"created_at": *"[^"]*"'; }

# same_bytes NAME IMAGE: the file of a dir pool begins with the image's bytes (the dir driver rounds the size up).
same_bytes() {
  sh_ "cmp -n \$(stat -c %s /isos/$2) /isos/$2 /var/lib/incus/storage-pools/$pool/custom/default_$1.iso/root.img"
}

property() { inside systemctl show --value --property="$2" "$1"; }
active() { [ "$(property "$1" ActiveState)" = active ]; }
main_pid() { property isosyncd.service MainPID; }

# another_pid OLD: the daemon lives, as another process.
another_pid() {
  local pid
  pid=$(main_pid)
  [ "${pid:-0}" -gt 0 ] && [ "$pid" != "$1" ] && active isosyncd.service
}

status_text() { property isosyncd.service StatusText; }
status_says() { status_text | grep -Eq "$1"; }

# as USER COMMAND..., and the same as the beginning of a line of shell.
as_line() { echo "env HOME=/home/$1 setpriv --reuid=$1 --regid=$1 --init-groups"; }
as() {
  local user=$1
  shift
  # shellcheck disable=SC2046 # words are meant
  inside $(as_line "$user") "$@"
}

points_build() {
  copy_source "$work/elsewhere"
  # Another place, another umask, and a build cache that is empty: nothing can be taken from the first build.
  (
    cd "$work/elsewhere"
    umask 077
    VERSION=$new_version SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$OLDPWD" log -1 --format=%ct)} \
      GOCACHE=$work/gocache packaging/deb.sh
  ) >"$work/second.log" 2>&1 || { cat "$work/second.log" >&2; fail "the package can be built elsewhere"; }
  check "two builds of the package are byte-identical" cmp "$work/new.deb" "$work"/elsewhere/dist/isosyncd_*.deb
  local gen=dist/generated to=$work/destdir
  check "install works below DESTDIR" env DESTDIR="$to" packaging/install.sh install dist/isosyncd $gen
  check "its unit names the program where it is" grep -q '^ExecStart=/usr/local/bin/isosyncd' "$to/usr/local/lib/systemd/system/isosyncd.service"
  check "uninstall works below DESTDIR" env DESTDIR="$to" packaging/install.sh uninstall
  check "and leaves no file" test -z "$(find "$to" ! -type d)"
  chmod -R u+rwX "$work/gocache" 2>/dev/null || true
  rm -rf "$work/gocache" "$work/elsewhere" "$to"
  local page warnings
  warnings=$(for page in $gen/man/*.gz; do MANROFFSEQ='' MANWIDTH=100 man --warnings -E UTF-8 -l -Tutf8 -Z "$page" 2>&1 >/dev/null; done)
  check "the man pages have no fault" test -z "$warnings"
  check "the bash completion is bash" bash -n $gen/completion/bash
  check "the licences of all modules are listed" sh -c "zcat $gen/third-party-licences.gz | grep -q '^github.com/spf13/cobra v.* Apache-2.0'"
}

points_install() {
  check "the previous package installs" inside dpkg -i /debs/previous.deb
  check "nothing is enabled or running" sh_ '
    for u in isosyncd.service isosyncd.socket; do
      [ "$(systemctl is-enabled $u)" = disabled ] && [ "$(systemctl is-active $u)" = inactive ] || { systemctl status $u; exit 1; }
    done'
  check "the folder is $drop, 3770 isosyncd:isosyncd" sh_ "[ \"\$(stat -c '%a %U:%G' $drop)\" = '3770 isosyncd:isosyncd' ]"
  check "/etc/isosyncd/config.yaml is a configuration file of dpkg" sh_ "dpkg-query -W -f '\${Conffiles}' isosyncd | grep -q ' /etc/isosyncd/config.yaml '"
  verify_silent "isosyncd.service isosyncd@x.service isosyncd.socket isosyncd@x.socket"
  exposure isosyncd.service 15
  exposure isosyncd@x.service 15
  check "the check of exposure can fail" sh_ '
    printf "[Service]\nExecStart=/bin/true\n" >/run/systemd/system/bare.service
    ! systemd-analyze security --offline=true --threshold=40 /run/systemd/system/bare.service; s=$?; rm /run/systemd/system/bare.service; exit $s'
}

# verify_silent UNITS
verify_silent() {
  check "systemd-analyze verify is silent: $1" sh_ "out=\$(systemd-analyze verify --man=yes $1 2>&1); s=\$?; echo \"\$out\"; [ \$s = 0 ] && [ -z \"\$out\" ]"
}

# exposure UNIT TENTHS
exposure() {
  check "systemd-analyze security $1 is at most ${2%?}.${2: -1}: $(sh_ "systemd-analyze security --no-pager $1 | tail -n 1 | sed 's/.*: //'")" \
    inside systemd-analyze security --no-pager --threshold="$2" "$1"
}

# points_without_server: the daemon is there before Incus. It must wait, and go on by itself.
points_without_server() {
  # Whether it waits or gives up is its own affair; it must say why, and go on once there is a server.
  inside systemctl enable --now isosyncd 2>/dev/null
  inside cp /isos/ipxe.iso $drop/
  eventually 60 "without a server, systemctl status says what is missing" sh_ 'systemctl status --no-pager --full isosyncd | grep -Ei "no server|no LXD|away"'
  check "Incus installs" sh_ 'dpkg -i $(ls /debs/*.deb | grep -v /debs/previous.deb | grep -v /debs/new.deb)'
  check "a pool is made" inside incus storage create $pool dir
  eventually 90 "a server that comes later is found, its group included, without help" marked ipxe
  check "no root: the daemon is isosyncd, with CAP_LEASE alone" sh_ '
    pid=$(systemctl show --value -p MainPID isosyncd)
    [ "$(stat -c %U /proc/$pid)" = isosyncd ] && grep -x "CapEff:.0000000010000000" /proc/$pid/status && grep -x "CapBnd:.0000000010000000" /proc/$pid/status'
  exposure isosyncd.service 15
  inside systemctl disable --now isosyncd
  check "it stops without an error" sh_ '[ "$(systemctl show --value -p Result isosyncd)" = success ]'
}

points_import() {
  check "systemctl enable --now isosyncd" inside systemctl enable --now isosyncd
  check "it is ready when systemctl returns" active isosyncd.service
  inside cp /isos/grub-rescue-cdrom.iso $drop/real.iso
  eventually 90 "cp real.iso $drop/ gives the volume" marked real
  check "with the bytes of the image" same_bytes real grub-rescue-cdrom.iso
  check "an unchanged image of before is there once, and good" same_bytes ipxe ipxe.iso
  inside cp /isos/memtest86+x64.iso $drop/private.iso
  inside chmod 600 $drop/private.iso
  eventually 60 "an image that cannot be read is explained beside it" inside test -s $drop/private.iso.failed
  inside chmod 644 $drop/private.iso
  eventually 90 "and imported once it can be" marked private
  eventually 30 "and the explanation goes" inside test ! -e $drop/private.iso.failed
  # Open for writing by another user: only a lease (CAP_LEASE) can know. The second file is the clock: it was dropped
  # later, and is through.
  sh_ "cp /isos/ipxe.iso $drop/open.iso; setsid sh -c 'exec 9>>$drop/open.iso; sleep 600 & echo \$! >/run/writer; wait' >/dev/null 2>&1 &"
  eventually 30 "a writer is at work" inside test -s /run/writer
  inside cp /isos/memtest86+x64.iso $drop/clock.iso
  eventually 120 "an image dropped meanwhile is imported" marked clock
  check "an image that is open for writing is not" sh_ "! incus query /1.0/storage-pools/$pool/volumes/custom/open"
  sh_ 'kill $(cat /run/writer)'
  eventually 90 "it is when the writer has gone" marked open
}

points_faults() {
  local pid before
  before=$(born real)
  # A fast machine has stored the image before anybody looks, so the server only gets a tenth of the time.
  sh_ 'touch /run/slow; pid=$(systemctl show --value -p MainPID incus.service)
    setsid sh -c "while [ -e /run/slow ]; do kill -STOP $pid; sleep 0.3; kill -CONT $pid; sleep 0.03; done" >/dev/null 2>&1 &'
  inside cp /isos/big.iso $drop/big.iso
  eventually 120 "systemctl status shows counts and progress" status_says '[0-9]+.*(%|[0-9] [KMG]i?B)'
  say "     such as: $(cat "$work/last" 2>/dev/null) $(status_text)"
  pid=$(main_pid)
  inside kill -KILL "$pid"
  inside rm /run/slow
  eventually 60 "kill -9: systemd restarts it" another_pid "$pid"
  eventually 180 "and it goes on: the image at work becomes a volume" marked big
  check "with the bytes of the image" same_bytes big big.iso
  check "and nothing else was made again" test "$(born real)" = "$before"

  # Soon instead of in a minute.
  sh_ 'mkdir -p /run/systemd/system/isosyncd.service.d
    printf "[Service]\nWatchdogSec=10s\n" >/run/systemd/system/isosyncd.service.d/watchdog.conf
    systemctl daemon-reload && systemctl restart isosyncd'
  pid=$(main_pid)
  inside kill -STOP "$pid"
  eventually 120 "the watchdog fires on a stopped daemon, and it is started again" another_pid "$pid"
  check "the journal says that it was the watchdog" sh_ 'journalctl --no-pager -u isosyncd | grep -i "watchdog timeout"'
  sh_ 'rm -r /run/systemd/system/isosyncd.service.d; systemctl daemon-reload; systemctl restart isosyncd'

  check "the type is notify-reload where systemd has it" sh_ '
    type=$(systemctl show --value -p Type isosyncd); version=$(systemctl --version | awk "NR == 1 {print int(\$2)}"); echo "$version: $type"
    if [ "$version" -ge 253 ]; then [ "$type" = notify-reload ]; else [ "$type" = notify ]; fi'
  pid=$(main_pid)
  check "reload works" inside systemctl reload isosyncd
  eventually 30 "and the daemon lives on as the same process" sh_ "[ \$(systemctl show --value -p MainPID isosyncd) = $pid ] && systemctl is-active isosyncd"

  sh_ 'cp /etc/isosyncd/config.yaml /run/config.good; echo "no_such_key: 1" >>/etc/isosyncd/config.yaml'
  inside systemctl restart isosyncd || true
  eventually 30 "a wrong configuration ends it with 78, and systemd does not try again" sh_ '
    systemctl show -p ActiveState -p ExecMainStatus isosyncd | sort | tr "\n" " " | grep -x "ActiveState=failed ExecMainStatus=78 "'
  sh_ 'cat /run/config.good >/etc/isosyncd/config.yaml; systemctl restart isosyncd'
  eventually 30 "a mended one starts" active isosyncd.service
}

points_control() {
  sh_ 'useradd -m member; useradd -m stranger; usermod -aG isosyncd member'
  check "a member of the group isosyncd sees the status" as member isosyncd status
  check "and nobody else does" sh_ "! $(as_line stranger) isosyncd status"
  check "a member drops an image" as member cp /isos/ipxe.iso $drop/members.iso
  eventually 90 "and it becomes a volume" marked members
  inside systemctl stop isosyncd
  check "a question to a stopped daemon fails, and does not start it" sh_ '! isosyncd status && [ "$(systemctl is-active isosyncd)" = inactive ]'
  inside systemctl start isosyncd
}

points_instance() {
  sh_ 'sed "s,^folder:.*,folder: /srv/more," /etc/isosyncd/config.yaml >/etc/isosyncd/more.yaml
    install -d -o isosyncd -g isosyncd -m 2770 /srv/more'
  check "isosyncd@more starts beside it" inside systemctl enable --now isosyncd@more
  inside cp /isos/ipxe.iso /srv/more/more.iso
  eventually 90 "and serves its own folder" marked more
  check "with its own state directory" sh_ 'test -e /var/lib/isosyncd@more/journal.db'
}

points_mount() {
  sh_ 'install -d /etc/systemd/system/isosyncd.service.d
    ln -s /usr/share/isosyncd/isosyncd-mount.conf /etc/systemd/system/isosyncd.service.d/mount.conf
    sed -i "/^mount:/d" /etc/isosyncd/config.yaml; echo "mount: /srv/iso" >>/etc/isosyncd/config.yaml
    systemctl daemon-reload'
  check "it starts with the drop-in for the mount" inside systemctl restart isosyncd
  eventually 30 "the volumes show at /srv/iso" inside test -f /srv/iso/real.iso || {
    sh_ 'journalctl --no-pager -o cat -u isosyncd | tail -n 20' >&2
    return 1
  }
  check "another user may look, with the right size" sh_ "[ \"\$($(as_line stranger) stat -c %s /srv/iso/real.iso)\" = \"\$(stat -c %s /isos/grub-rescue-cdrom.iso)\" ]"
  check "the content is the image's" inside cmp /srv/iso/real.iso /isos/grub-rescue-cdrom.iso
  check "cp into the mount succeeds" inside timeout 120 cp /isos/memtest86+x64.iso /srv/iso/written.iso
  check "and the volume is there when cp returns" marked written
  exposure isosyncd.service 40
  verify_silent isosyncd.service
}

points_reboot() {
  local before
  before=$(born real)
  reboot_root || die "the root reboots"
  eventually 60 "it comes back by itself after a reboot" active isosyncd.service
  eventually 60 "and so does the instance" active isosyncd@more.service
  eventually 60 "and the mount" inside test -f /srv/iso/real.iso
  inside cp /isos/memtest86+x64.iso $drop/after-reboot.iso
  eventually 120 "and works" marked after-reboot
  check "and made nothing again" test "$(born real)" = "$before"
}

# everything_born: name and birth of each volume.
everything_born() {
  inside incus query "/1.0/storage-pools/$pool/volumes/custom?recursion=1" | grep -E '"(name|created_at)":' | tr -d ' ,' | paste - - | LC_ALL=C sort
}

points_upgrade() {
  local before owners pid
  before=$(everything_born)
  owners=$(sh_ 'stat -c "%n %i %a %U:%G" /var/lib/isosyncd /var/lib/isosyncd/journal.db /srv/iso-drop')
  pid=$(main_pid)
  check "the new package upgrades" inside dpkg --force-confold -i /debs/new.deb
  eventually 60 "the daemon is the new one" another_pid "$pid"
  check "of the new version" sh_ "isosyncd version | grep -qF '$new_version'"
  check "our configuration is kept" inside grep -q '^mount: /srv/iso' /etc/isosyncd/config.yaml
  check "journal, ownership and modes are kept" test "$(sh_ 'stat -c "%n %i %a %U:%G" /var/lib/isosyncd /var/lib/isosyncd/journal.db /srv/iso-drop')" = "$owners"
  inside cp /isos/ipxe.iso $drop/after-upgrade.iso
  eventually 120 "it works on" marked after-upgrade
  check "no volume was made again" test "$(everything_born | grep -v after-upgrade)" = "$before"
}

points_purge() {
  local before
  before=$(everything_born)
  check "remove stops it" sh_ 'dpkg -r isosyncd && ! pgrep -x isosyncd'
  check "and unmounts" sh_ '! grep " /srv/iso " /proc/mounts'
  check "purge works" inside dpkg -P isosyncd
  # By name, wherever it is; the tests' own files and dpkg's record of the removal do not count.
  check "purge leaves nothing but the data" sh_ '
    left=$(find / -xdev \( -path /debs -o -path /proc -o -path /sys -o -path /dev -o -path /var/lib/incus -o -path /var/log -o -path /var/cache/man -o -path /srv \) -prune -o -iname "*isosync*" -print)
    echo "$left"; [ -z "$left" ]'
  check "the images stay, and only they" sh_ "ls $drop | grep -v '\.iso\$' ; ls -A $drop | grep -qx real.iso && [ -z \"\$(ls -A $drop | grep -v '\.iso\$')\" ]"
  check "the empty mount point goes" inside test ! -e /srv/iso
  check "the volumes stay" test "$(everything_born)" = "$before"
  check "systemd knows nothing of it" sh_ '[ -z "$(systemctl list-units --all --plain --no-legend "isosyncd*")" ]'
  check "the owner of the images keeps its name" inside getent passwd isosyncd
  check "it installs again" inside dpkg -i /debs/new.deb
  inside find $drop -mindepth 1 -delete
  check "and purges" inside dpkg -P isosyncd
  check "without images even the folder and the user go" sh_ "! test -e $drop && ! getent passwd isosyncd && ! getent group isosyncd"
}
