#!/usr/bin/env bash
# Lists every module that is linked into isosyncd with its licence in full, as those licences ask for, on stdout.
# A licence that it does not know fails: somebody has to read it before it is shipped.
#
#   packaging/licences.sh [--list]      --list: only module, version and licence, one line each
set -euo pipefail
cd "$(dirname "$0")/.."

# kind FILE: its SPDX identifier, found by a sentence that only this licence has.
kind() {
  local text
  text=$(tr -s '[:space:]' ' ' <"$1")
  case $text in
    *"Apache License"*"Version 2.0"*) echo Apache-2.0 ;;
    *"Mozilla Public License"*[Vv]"ersion 2.0"*) echo MPL-2.0 ;;
    *"Redistribution and use in source and binary forms"*"ndorse or promote products"*) echo BSD-3-Clause ;;
    *"Redistribution and use in source and binary forms"*) echo BSD-2-Clause ;;
    *"Permission is hereby granted, free of charge"*"The above copyright notice and this permission notice"*) echo MIT ;;
    *"Permission to use, copy, modify, and/or distribute this software for any purpose"*) echo ISC ;;
    *) return 1 ;;
  esac
}

# texts DIR: the files of a module that have to go with its binary.
texts() {
  find "$1" -maxdepth 1 -type f \( -iname 'licen[cs]e*' -o -iname 'copying*' -o -iname 'notice*' \) ! -name '*.go' | LC_ALL=C sort
}

# one NAME VERSION DIR
one() {
  local name=$1 version=$2 dir=$3 files file kinds=() k
  mapfile -t files < <(texts "$dir")
  for file in "${files[@]}"; do
    [[ ${file##*/} != [Nn][Oo][Tt][Ii][Cc][Ee]* ]] || continue
    k=$(kind "$file") || { echo "$name $version: nobody has read ${file##*/} yet; add its kind to packaging/licences.sh" >&2; return 1; }
    kinds+=("$k")
  done
  [ ${#kinds[@]} -gt 0 ] || { echo "$name $version: it has no licence file" >&2; return 1; }
  local line
  line="$name $version $(printf '%s\n' "${kinds[@]}" | LC_ALL=C sort -u | paste -sd+)"
  if [ "$list" = yes ]; then
    echo "$line"
    return
  fi
  printf '%s\n%s\n\n' "$line" "$(printf '%s' "$line" | tr -c '' '=')"
  for file in "${files[@]}"; do
    printf -- '--- %s\n\n' "${file##*/}"
    cat "$file"
    printf '\n\n'
  done
}

list=no
[ "${1:-}" != --list ] || list=yes
[ "$list" = yes ] || cat <<'TEXT'
Software that is part of the program isosyncd, each with its licence.

TEXT
one "Go (standard library and runtime)" "$(go env GOVERSION)" "$(go env GOROOT)"
go list -deps -f '{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}' ./cmd/isosyncd |
  LC_ALL=C sort -u | while read -r name version dir; do
  one "$name" "$version" "$dir"
done
