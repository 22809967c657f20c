#!/usr/bin/env bash
# Writes what is generated for a package and is no program: man pages, completion of the shells, licences.
#
#   packaging/generate.sh PROGRAM OUT      PROGRAM must run on this machine; OUT is made anew
set -euo pipefail
program=$(realpath -- "$1")
out=$2
here=$(dirname "$(realpath -- "$0")")

rm -rf "$out"
mkdir -p "$out/man" "$out/completion"
out=$(realpath -- "$out")

"$program" man "$out/man"
[ -e "$out/man/isosyncd.1" ] || { echo "isosyncd man wrote no isosyncd.1" >&2; exit 1; }
gzip -9n "$out"/man/*.1

for shell in bash zsh fish; do
  "$program" completion "$shell" >"$out/completion/$shell"
done
"$here/licences.sh" | gzip -9n >"$out/third-party-licences.gz"
