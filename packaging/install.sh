#!/usr/bin/env bash
# Installs and uninstalls isosyncd. This is the one list of what belongs to an installation; the package is made of it.
#
#   packaging/install.sh install PROGRAM GENERATED      GENERATED: see generate.sh
#   packaging/install.sh uninstall
#
#   DESTDIR   put in front of every path (default: none)
#   PREFIX    /usr/local, or /usr for a package
#
# Nothing is enabled, started or made outside these files: `uninstall` leaves state, images, the user isosyncd and a
# config.yaml that somebody has changed.
set -euo pipefail
here=$(dirname "$(realpath -- "$0")")
action=${1:?install or uninstall}
DESTDIR=${DESTDIR:-}
PREFIX=${PREFIX:-/usr/local}
config=$DESTDIR/etc/isosyncd/config.yaml

# Debian keeps the completion of packages apart from the administrator's own.
zsh=$PREFIX/share/zsh/site-functions
fish=$PREFIX/share/fish/completions
if [ "$PREFIX" = /usr ]; then
  zsh=/usr/share/zsh/vendor-completions
  fish=/usr/share/fish/vendor_completions.d
fi
doc=$PREFIX/share/doc/isosyncd

# config_text is the example with the folder that tmpfiles.d makes, so that an installation works as it is.
config_text() { sed 's,^folder: ""$,folder: /srv/iso-drop,' "$here/systemd/config.yaml"; }

# files prints mode, target and source, one file a line; a source in GENERATED begins with "generated/".
files() {
  cat <<LIST
0755 $PREFIX/bin/isosyncd program
0644 $PREFIX/lib/systemd/system/isosyncd.service $here/systemd/isosyncd.service
0644 $PREFIX/lib/systemd/system/isosyncd@.service $here/systemd/isosyncd@.service
0644 $PREFIX/lib/systemd/system/isosyncd.socket $here/systemd/isosyncd.socket
0644 $PREFIX/lib/systemd/system/isosyncd@.socket $here/systemd/isosyncd@.socket
0755 $PREFIX/lib/systemd/system-generators/isosyncd-generator $here/systemd/isosyncd-generator
0644 $PREFIX/lib/sysusers.d/isosyncd.conf $here/systemd/isosyncd.sysusers
0644 $PREFIX/lib/tmpfiles.d/isosyncd.conf $here/systemd/isosyncd.tmpfiles
0644 $PREFIX/share/isosyncd/isosyncd-mount.conf $here/systemd/isosyncd-mount.conf
0644 $PREFIX/share/bash-completion/completions/isosyncd generated/completion/bash
0644 $zsh/_isosyncd generated/completion/zsh
0644 $fish/isosyncd.fish generated/completion/fish
0644 $doc/third-party-licences.gz generated/third-party-licences.gz
0644 $doc/copyright $here/deb/copyright
0644 $doc/INSTALL.md $here/../docs/INSTALL.md
LIST
}

case $action in
install)
  program=${2:?the program} generated=${3:?what generate.sh made}
  while read -r mode target source; do
    case $source in
    program) source=$program ;;
    generated/*) source=$generated/${source#generated/} ;;
    esac
    install -D -m "$mode" -- "$source" "$DESTDIR$target"
  done < <(files)
  install -d -m 0755 "$DESTDIR$PREFIX/share/man/man1"
  install -m 0644 "$generated"/man/*.1.gz "$DESTDIR$PREFIX/share/man/man1/"
  # Units and drop-in name the program and the drop-in by their place under /usr.
  if [ "$PREFIX" != /usr ]; then
    sed -i "s,/usr/bin/isosyncd,$PREFIX/bin/isosyncd,; s,/usr/share/isosyncd/,$PREFIX/share/isosyncd/," \
      "$DESTDIR$PREFIX"/lib/systemd/system/isosyncd*.service "$DESTDIR$PREFIX/share/isosyncd/isosyncd-mount.conf"
  fi
  if [ ! -e "$config" ]; then
    install -D -m 0644 <(config_text) "$config"
    grep -q '^folder: /srv/iso-drop$' "$config" || { echo "config.yaml has no empty folder to fill in" >&2; exit 1; }
  fi
  if [ -z "$DESTDIR" ]; then
    cat <<'TEXT'
Installed. What a package would do now:
  systemd-sysusers isosyncd.conf && systemd-tmpfiles --create isosyncd.conf && systemctl daemon-reload
Then: systemctl enable --now isosyncd
TEXT
  fi
  ;;
uninstall)
  if [ -e "$config" ] && cmp -s "$config" <(config_text); then
    rm -f -- "$config"
  fi
  while read -r _ target _; do
    rm -f -- "$DESTDIR$target"
  done < <(files)
  rm -f -- "$DESTDIR$PREFIX"/share/man/man1/isosyncd.1.gz "$DESTDIR$PREFIX"/share/man/man1/isosyncd-*.1.gz
  for dir in "$doc" "$PREFIX/share/isosyncd" /etc/isosyncd; do
    rmdir -- "$DESTDIR$dir" 2>/dev/null || true
  done
  ;;
*)
  echo "usage: packaging/install.sh install PROGRAM GENERATED | uninstall" >&2
  exit 2
  ;;
esac
