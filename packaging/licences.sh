#!/usr/bin/env bash
# Lists every module that is linked into isosyncd with its licence in full, as those licences ask for, on stdout.
# A licence that it does not know fails: somebody has to read it before it is shipped.
#
#   packaging/licences.sh [--list]      --list: only module, version and licence, one line each
set -euo pipefail
cd "$(dirname "$0")/.."

# kinds FILE: the SPDX identifiers of the licences in it, one a line, each found by a sentence that only it has.
kinds() {
  local text found=1
  text=$(tr -s '[:space:]' ' ' <"$1")
  is() { # IDENTIFIER PATTERN
    # shellcheck disable=SC2053 # a pattern is meant
    [[ $text != *$2* ]] || { echo "$1"; found=0; }
  }
  is Apache-2.0 'Apache License, Version 2.0'
  is Apache-2.0 'Apache License Version 2.0'
  is MPL-2.0 'Mozilla Public License*ersion 2.0'
  is MIT 'Permission is hereby granted, free of charge'
  is ISC 'Permission to use, copy, modify, and*distribute this software for any purpose'
  case $text in
  *'Redistribution and use in source and binary forms'*'ndorse or promote products'*) echo BSD-3-Clause; found=0 ;;
  *'Redistribution and use in source and binary forms'*) echo BSD-2-Clause; found=0 ;;
  esac
  return $found
}

# texts DIR: the files of a module that have to go with its binary.
texts() {
  find "$1" -maxdepth 1 -type f \( -iname 'licen[cs]e*' -o -iname 'copying*' -o -iname 'notice*' \) ! -name '*.go' | LC_ALL=C sort
}

# one NAME VERSION DIR
one() {
  local name=$1 version=$2 dir=$3 files file all= more
  mapfile -t files < <(texts "$dir")
  for file in "${files[@]}"; do
    [[ ${file##*/} != [Nn][Oo][Tt][Ii][Cc][Ee]* ]] || continue
    more=$(kinds "$file") || { echo "$name $version: nobody has read ${file##*/} yet; add its kind to packaging/licences.sh" >&2; return 1; }
    all+=$more$'\n'
  done
  [ -n "$all" ] || { echo "$name $version: it has no licence file" >&2; return 1; }
  local line
  line="$name $version $(printf '%s' "$all" | LC_ALL=C sort -u | paste -sd+)"
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
