#!/usr/bin/env bash
# Shows isosyncd at work, with the real daemon over its embedded store, and checks everything that it shows. It needs no
# server and no root, and leaves nothing behind. The exit code is 0 only if all of it was as it must be.
#
#   testdata/demo.sh PROGRAM
set -euo pipefail
program=$(realpath -- "$1")
samples=$(dirname "$(realpath -- "$0")")/iso
export LC_ALL=C.UTF-8

dir=$(mktemp -d "${TMPDIR:-/tmp}/isosyncd-demo.XXXXXX")
pid=
cleanup() {
  [ -z "$pid" ] || { kill -KILL "$pid" && wait "$pid"; } 2>/dev/null || true
  rm -rf -- "$dir"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

say() { printf '\n== %s\n' "$*"; }
die() {
  printf '\nthe demo failed: %s\n' "$*" >&2
  [ ! -e "$dir/log" ] || { echo "the daemon's last words:" >&2; tail -n 20 "$dir/log" >&2; }
  exit 1
}

drop=$dir/drop
mkdir "$drop"
pool=(--remote "store:$dir/isos" --folder "$drop" --state-dir "$dir/state")
control=(--control "$dir/control.sock")

# states prints "STATE <tab> NAME <tab> WHY" for each file, as the daemon says. Its JSON has one key a line.
states() {
  "$program" status --json "${control[@]}" "${pool[@]:2}" >"$dir/status" 2>/dev/null || true
  awk '
    function value(s) { sub(/^[^:]*: "/, "", s); sub(/",?$/, "", s); return s }
    /^  "files": \[/ { files = 1 }
    /^  \]/ { files = 0 }
    files && /^      "name":/ { name = value($0); why = "" }
    files && /^      "state":/ { state = value($0) }
    files && /^        "text":/ { why = value($0) }
    files && /^    }/ { print state "\t" name "\t" why }
  ' "$dir/status"
}

# await SECONDS COMMAND...: until it succeeds.
await() {
  local until=$((SECONDS + $1))
  shift
  until "$@"; do
    [ $SECONDS -lt $until ] || return 1
    kill -0 "$pid" 2>/dev/null || die "the daemon is gone"
    sleep 0.2
  done
}

# settled: each sample has become what expect.txt says. What differs is in $dir/wrong.
settled() {
  states >"$dir/states"
  awk -F '\t' '
    FILENAME == ARGV[1] { state[$2] = $1; next } # NR == FNR would take the second file for it while the first is empty
    /^#/ || NF < 2 { next }
    {
      ok = ($2 == "accept" && state[$1] == "present") ||
           ($2 == "incomplete" && (state[$1] == "waiting" || state[$1] == "failed")) ||
           ($2 == "reject" && (state[$1] == "failed" || state[$1] == "waiting"))
      if (!ok) print $1 ": is " (state[$1] == "" ? "unknown" : state[$1]) ", and should be: " $2
    }
  ' "$dir/states" "$samples/expect.txt" >"$dir/wrong"
  [ ! -s "$dir/wrong" ]
}

# digest NAME: what the mark of that volume says.
digest() {
  "$program" list --json "${pool[@]}" 2>/dev/null | awk -v want="\"$1\"," '
    $1 == "\"name\":" { name = $2 }
    $1 == "\"sha256\":" && name == want { gsub(/[",]/, "", $2); print $2 }'
}
has() { [ "$(digest "$1")" = "$2" ]; }
sum() { sha256sum <"$1" | cut -d ' ' -f 1; }

say "isosyncd run --folder drop --remote store:isos"
"$program" run "${pool[@]}" "${control[@]}" --settle-delay 200ms --scan-interval 2s >"$dir/log" 2>&1 &
pid=$!
await 60 grep -q 'msg=ready' "$dir/log" || die "the daemon was not ready within a minute"

count=$(find "$samples" -maxdepth 1 -name '*.iso' | wc -l)
say "cp testdata/iso/*.iso drop/    ($count files: images of many kinds, cut ones, and what only looks like one)"
cp "$samples"/*.iso "$drop/"
await 180 settled || { cat "$dir/wrong" >&2; die "not every file became what it should"; }

say "isosyncd status: what became of each, and why not"
sort "$dir/states" | awk -F '\t' '{ printf "%-9s %-22s %s\n", $1, $2, $3 }'

say "isosyncd list"
"$program" list "${pool[@]}"

# Every image is a volume with exactly its bytes, and nothing else is one.
images=0
while IFS=$'\t' read -r file verdict _; do
  volume=$dir/isos/pools/default/default/$file
  case $verdict in
  accept)
    cmp -- "$samples/$file" "$volume" || die "the volume of $file has other bytes"
    has "${file%.iso}" "$(sum "$samples/$file")" || die "the volume of $file is marked with another digest"
    images=$((images + 1))
    ;;
  *)
    [ ! -e "$volume" ] || die "$file became a volume, and is none: $verdict"
    [ -s "$drop/$file.failed" ] || [ -s "$drop/$file.waiting" ] || die "nothing beside $file says why it is no volume"
    ;;
  esac
done < <(grep -v '^#' "$samples/expect.txt")
[ "$images" -gt 0 ] || die "there was no image among the samples"
echo
echo "all $images images are volumes, byte for byte; beside every other file there is one that says why it is not:"
head -n 1 "$drop/xz.iso.failed"

say "cp rockridge.iso drop/plain.iso    (a newer plain.iso)"
cp "$samples/rockridge.iso" "$drop/plain.iso"
await 120 has plain "$(sum "$samples/rockridge.iso")" || die "volume plain was not replaced"
cmp -- "$samples/rockridge.iso" "$dir/isos/pools/default/default/plain.iso" || die "volume plain has other bytes"
"$program" list "${pool[@]}" | grep -E '^(VOLUME|plain) '

say "kill -TERM: an orderly stop"
kill -TERM "$pid"
code=0
wait "$pid" || code=$?
pid=
[ "$code" = 0 ] || die "the daemon ended with exit code $code"
tail -n 1 "$dir/log"
[ -z "$(find "$drop" -name '.*' -type f)" ] || die "it left hidden files in the folder"

say "the demo went as it must"
