#!/usr/bin/env bash
# Builds dist/isosyncd_VERSION_ARCH.deb and prints its name. The same source gives the same bytes.
#
#   packaging/deb.sh
#
#   VERSION             default: what `git describe` says; v1.2.0-5-gabcdef0 becomes 1.2.0+5.gabcdef0
#   SOURCE_DATE_EPOCH   default: the time of the last commit
#   GOARCH              default: this machine's
set -euo pipefail
cd "$(dirname "$0")/.."
umask 022
export LC_ALL=C TZ=UTC

# The two service units differ only in names: compare them without comments, and with the instance taken out.
plain() { grep -v '^#' "packaging/systemd/$1" | sed 's/isosyncd@%i/isosyncd/; s/, %i)/)/; s,/%i\.yaml,/config.yaml,'; }
if ! diff <(plain isosyncd.service) <(plain isosyncd@.service) >&2; then
  echo "isosyncd.service and isosyncd@.service have drifted apart" >&2
  exit 1
fi

git=no
if git rev-parse --git-dir >/dev/null 2>&1; then git=yes; fi
if [ -z "${VERSION:-}" ]; then
  [ $git = yes ] || { echo "no git here: set VERSION" >&2; exit 1; }
  VERSION=$(git describe --tags --always --dirty --match 'v[0-9]*')
fi
# A version of Debian begins with a digit, and has a hyphen only before the packager's part.
VERSION=${VERSION#v}
case $VERSION in
[0-9]*[.~]*)
  VERSION=${VERSION/-/+}
  VERSION=${VERSION//-/.}
  ;;
*) # a bare commit: before every release, and in the order of time
  [ $git = yes ] || { echo "VERSION=$VERSION is no version, such as 1.2.0" >&2; exit 1; }
  VERSION=0~$(git log -1 --format=%cd --date=format:%Y%m%d.%H%M%S).${VERSION//-/.}
  ;;
esac
if [ -z "${SOURCE_DATE_EPOCH:-}" ]; then
  [ $git = yes ] || { echo "no git here: set SOURCE_DATE_EPOCH" >&2; exit 1; }
  SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
fi
ARCH=${GOARCH:-$(go env GOARCH)}
unset GOARCH # from here on, Go builds and runs tools for this machine
export VERSION SOURCE_DATE_EPOCH ARCH

rm -rf dist/stage dist/generated
mkdir -p dist
# build OUT ARCH. The build id and the place of the source must not get into the program; the commit gets in by VERSION.
build() {
  CGO_ENABLED=0 GOOS=linux GOARCH=$2 go build -trimpath -buildvcs=false \
    -ldflags "-s -w -buildid= -X main.version=$VERSION" -o "$1" ./cmd/isosyncd
}
build dist/isosyncd "$ARCH"
runs=dist/isosyncd
if [ "$ARCH" != "$(go env GOHOSTARCH)" ]; then
  runs=dist/isosyncd-host
  build $runs "$(go env GOHOSTARCH)"
fi
GOARCH=$ARCH packaging/generate.sh $runs dist/generated
DESTDIR=dist/stage PREFIX=/usr packaging/install.sh install dist/isosyncd dist/generated
find dist/stage -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +

rm -f dist/isosyncd_"$VERSION"_*.deb
go tool -modfile=tools.mod nfpm package --config packaging/nfpm.yaml --packager deb --target dist/ >&2
echo dist/isosyncd_"$VERSION"_*.deb
