#!/usr/bin/env bash
# Makes the sample images of this folder, byte for byte the same each time with the same tools (Debian bookworm's are in
# the tree):
#
#   testdata/iso/make.sh [DIR]     DIR = where to; default: this folder
#
# Needs xorriso, genisoimage, mkudffs, qemu-img, mke2fs, mksquashfs, gzip, xz, zstd, bzip2, zip and Go. What each sample
# must be taken for is in expect.txt, which is written by hand.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here}
mkdir -p "$out"
out=$(cd "$out" && pwd)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"

export SOURCE_DATE_EPOCH=1704067200 # 2024-01-01 00:00:00 UTC
export E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH TZ=UTC LC_ALL=C.UTF-8
umask 022
date=2024010100000000
log=$tmp/log
quiet() { "$@" >"$log" 2>&1 || { cat "$log" >&2; exit 1; }; }
# Sets every date that genisoimage and mkudffs take from the clock.
go build -o fixdate "$here/fixdate.go"

# --- what is inside -------------------------------------------------------------------------------------------------
mkdir -p tree/docs tree/boot
echo 'A sample image of isosyncd.' >tree/readme.txt
seq 1 400 >tree/docs/numbers.txt
# Boot images: nothing boots from them, but they are as long as real ones and not all zeros.
bytes() { head -c "$2" < <(yes "$1"); }
bytes 'no BIOS code ' 2048 >tree/boot/bios.img
bytes 'no EFI program ' 16384 >tree/boot/efi.img
bytes 'no MBR code ' 432 >mbr.bin
bytes 'an EFI system partition, appended ' 65536 >esp.img
find tree -exec touch -d @$SOURCE_DATE_EPOCH {} +

x() { # x OUT LABEL OPTION...
  local file=$out/$1 label=$2
  shift 2
  rm -f "$file"
  quiet xorrisofs -o "$file" -V "$label" -no-pad --modification-date=$date --set_all_file_dates $date \
    -publisher 'ISOSYNCD TESTS' "$@" tree
}
bios=(-c boot/boot.cat -b boot/bios.img -no-emul-boot -boot-load-size 4)
uefi=(-e boot/efi.img -no-emul-boot)

# --- whole images ----------------------------------------------------------------------------------------------------
x plain.iso PLAIN --norock
x rockridge.iso 'Rock Ridge 1.0 amd64' -R
x joliet.iso JOLIET --norock -J
x enhanced.iso ENHANCED --norock -iso-level 4
x bios.iso BIOS -R "${bios[@]}"
x uefi.iso UEFI -R -c boot/boot.cat "${uefi[@]}"
x bios-uefi.iso BIOS_UEFI -R -J "${bios[@]}" -eltorito-alt-boot "${uefi[@]}"
x isohybrid.iso ISOHYBRID -R "${bios[@]}" -isohybrid-mbr mbr.bin -partition_cyl_align off
x gpt-hybrid.iso GPT_HYBRID -R "${bios[@]}" --grub2-mbr mbr.bin -append_partition 2 0xef esp.img -appended_part_as_gpt \
  -eltorito-alt-boot -e --interval:appended_partition_2:all:: -no-emul-boot
x esp-hybrid.iso ESP_HYBRID -R "${bios[@]}" --grub2-mbr mbr.bin -append_partition 2 0xef esp.img
x apm.iso APM -R -hfsplus
x offset16.iso OFFSET16 -R "${bios[@]}" --grub2-mbr mbr.bin -partition_offset 16

rm -f "$out/multisession.iso"
for session in first second; do
  quiet xorriso -dev "stdio:$out/multisession.iso" -padding 0 -volid "SESSION_${session^^}" -volume_date uuid $date \
    -volume_date c $date -volume_date m $date -map tree "/$session" -alter_date_r b =1704067200 / -- \
    -commit
done

g() { # g OUT LABEL OPTION...
  local file=$out/$1 label=$2
  shift 2
  quiet genisoimage -o "$file" -V "$label" -no-pad -uid 0 -gid 0 -publisher 'ISOSYNCD TESTS' "$@" tree
  ./fixdate "$file" 2048
}
g genisoimage.iso GENISOIMAGE -R -J
g udf-bridge.iso UDF_BRIDGE -R -J -udf

u() { # u OUT BLOCKSIZE BLOCKS OPTION...
  rm -f "$out/$1"
  truncate -s $(($2 * $3)) "$out/$1"
  quiet mkudffs --utf8 -b "$2" --uuid=1234567890abcdef "${@:4}" "$out/$1" "$3"
  ./fixdate "$out/$1" "$2"
}
u udf.iso 2048 300 --media-type=dvd --udfrev=1.02 --label='UDF only, ✓'
u udf-vat.iso 2048 300 --media-type=dvdr --udfrev=1.50 --label=WRITE_ONCE
u udf-harddisk.iso 512 600 --media-type=hd --label=STICK

# More bytes than the image claims: padding, and a length that is no multiple of anything.
{ cat "$out/rockridge.iso"; head -c 30723 /dev/zero; } >"$out/longer.iso"
# Bytes in front that belong to another kind of file: the system area is the author's.
{ printf 'PK\003\004'; tail -c +5 "$out/plain.iso"; } >"$out/zip-in-front.iso"

# An embedded sum, as implantisomd5 writes it: over all but the last 15 sectors, with the application-use area of the
# descriptor at 32768 (883 to 1394) as spaces, and sums of 20 fragments.
x md5sum.iso MD5SUM -R
spaces=$(printf '%512s' '')
put() { printf %s "$spaces" | dd of="$out/md5sum.iso" bs=1 seek=$((32768 + 883)) conv=notrunc status=none; }
put
size=$(stat -c %s "$out/md5sum.iso")
total=$((size - 15 * 2048))
fragments='' previous=0
for ((offset = 0; offset < total; offset += 32768)); do
  current=$((offset / (total / 21)))
  if [ $current != $previous ]; then
    end=$((offset + 32768 < total ? offset + 32768 : total))
    # The first hex digit, without a leading zero, of each of the first three bytes of the sum so far.
    for byte in $(head -c $end "$out/md5sum.iso" | md5sum | sed 's/\(..\)\(..\)\(..\).*/\1 \2 \3/'); do
      digit=${byte#0}
      fragments+=${digit:0:1}
    done
    previous=$current
  fi
done
md5=$(head -c $total "$out/md5sum.iso" | md5sum | cut -c-32)
text="ISO MD5SUM = $md5;SKIPSECTORS = 15;RHLISOSTATUS=0;FRAGMENT SUMS = $fragments;FRAGMENT COUNT = 20;"
text+='THIS IS NOT THE SAME AS RUNNING MD5SUM ON THIS ISO!!'
spaces=$(printf '%-512s' "$text")
put

# --- images that end too early ----------------------------------------------------------------------------------------
cut_to() { head -c "$3" "$out/$1" >"$out/$2"; }
less() { cut_to "$1" "$2" $(($(stat -c %s "$out/$1") - $3)); }
less plain.iso cut-plain.iso 1
less bios-uefi.iso cut-bios-uefi.iso 20480
less isohybrid.iso cut-isohybrid.iso 4096
less esp-hybrid.iso cut-esp-hybrid.iso 4096
less gpt-hybrid.iso cut-gpt-hybrid.iso 4096
cut_to udf-bridge.iso cut-udf-bridge.iso 300000
cut_to udf.iso cut-udf.iso 530000
cut_to plain.iso cut-descriptors.iso 34816
cut_to gpt-hybrid.iso cut-at-16k.iso 16384
# As long as it should be, but the end was not written.
{ cut_to gpt-hybrid.iso no-backup-gpt.iso $(($(stat -c %s "$out/gpt-hybrid.iso") - 8192)); head -c 8192 /dev/zero >>"$out/no-backup-gpt.iso"; }
{ head -c 36864 "$out/plain.iso"; head -c $(($(stat -c %s "$out/plain.iso") - 36864)) /dev/zero; } >"$out/zero-root.iso"

# --- other files under the name of an image ---------------------------------------------------------------------------
cd "$out"
gzip -9nc plain.iso >gzip.iso
xz -9c plain.iso >xz.iso
zstd -q -19 -c plain.iso >zstd.iso
bzip2 -9c plain.iso >bzip2.iso
cp -p plain.iso "$tmp/plain.iso"
touch -d @$SOURCE_DATE_EPOCH "$tmp/plain.iso"
rm -f "$tmp/z.zip"
(cd "$tmp" && zip -qX z.zip plain.iso)
cp "$tmp/z.zip" zip.iso
(cd "$tmp" && tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@$SOURCE_DATE_EPOCH -cf t.tar tree)
cp "$tmp/t.tar" tar.iso

bytes 'a disk ' 65536 >"$tmp/disk.raw"
for f in qcow2 vdi vmdk; do quiet qemu-img convert -f raw -O $f "$tmp/disk.raw" "$tmp/disk.$f"; done
# These three carry random identifiers: only what tells them apart is kept.
for f in qcow2 vdi vmdk; do head -c 512 "$tmp/disk.$f" >$f.iso; done
dd if=/dev/zero of=vdi.iso bs=1 seek=392 count=120 conv=notrunc status=none
sed -i '/^CID=/s/=.*/=12345678/' vmdk.iso
{ cat "$tmp/disk.raw"; printf 'conectix'; head -c 504 /dev/zero; } >vhd.iso

# A hard disk with MBR, and one with a GPT: hybrids with their disc descriptors wiped out.
for kind in isohybrid:mbr-disk gpt-hybrid:gpt-disk; do
  cp "${kind%:*}.iso" "${kind#*:}.iso"
  dd if=/dev/zero of="${kind#*:}.iso" bs=2048 seek=16 count=16 conv=notrunc status=none
done
rm -f ext4.iso squashfs.iso
quiet mke2fs -q -t ext4 -O ^has_journal -b 1024 -U 12345678-1234-1234-1234-123456789abc \
  -E hash_seed=12345678-1234-1234-1234-123456789abc,root_owner=0:0 ext4.iso 128
quiet env -u SOURCE_DATE_EPOCH mksquashfs "$tmp/tree" squashfs.iso -noappend -all-root -no-xattrs -mkfs-time $SOURCE_DATE_EPOCH -all-time $SOURCE_DATE_EPOCH

# Raw CD sectors, mode 1: sync, address, mode, data, and 288 bytes of error correction (left out: zeros).
sectors=$(($(stat -c %s plain.iso) / 2048))
for ((i = 0; i < sectors; i++)); do
  n=$((i + 150))
  printf '\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\0'
  printf "\\x$(printf %02d $((n / 4500)))\\x$(printf %02d $((n / 75 % 60)))\\x$(printf %02d $((n % 75)))\\x01"
  dd if=plain.iso bs=2048 skip=$i count=1 status=none
  head -c 288 /dev/zero
done >raw-2352.iso
# The same without sync and header, as mode 2 images have it: 8 bytes of subheader, data, 280 of correction.
for ((i = 0; i < 24; i++)); do
  printf '\0\0\x08\0\0\0\x08\0'
  dd if=plain.iso bs=2048 skip=$i count=1 status=none
  head -c 280 /dev/zero
done >raw-2336.iso
# Nero: 150 sectors of pregap are the usual content of its data; the footer names it.
{ head -c 8192 /dev/zero; bytes 'data ' 65536; printf 'NER5\0\0\0\0\0\0\x20\0'; } >nrg.iso
{ head -c 32777 /dev/zero; printf 'CDROM\001'; bytes 'old ' 4096; } >high-sierra.iso

: >empty.iso
printf '\0' >one-byte.iso
head -c 16384 /dev/zero >zeros.iso
head -c 65536 < <(openssl enc -aes-128-ctr -nosalt -K 0 -iv 0 -in /dev/zero 2>/dev/null) >random.iso
echo 'This is no image. It is a note about one.' >text.iso
printf '\n<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head><body>gone</body></html>\n' >html.iso
echo '{"error": {"code": 403, "message": "quota exceeded"}}' >json.iso
printf '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code></Error>\n' >xml.iso
printf 'version https://git-lfs.github.com/spec/v1\noid sha256:%064d\nsize 12345678\n' 7 >git-lfs.iso
printf '%064d  debian-12.5.0-amd64-netinst.iso\n' 7 >checksums.iso
printf 'FILE "IMAGE.BIN" BINARY\n  TRACK 01 MODE1/2352\n    INDEX 01 00:00:00\n' >cue.iso
printf 'd8:announce35:http://tracker.example.org/announce4:infod4:name5:a.iso12:piece lengthi262144e6:pieces20:\1\2\3\4\5\6\7\1\2\3\4\5\6\7\1\2\3\4\5\6ee' >torrent.iso
printf '[InternetShortcut]\r\nURL=https://example.org/a.iso\r\n' >shortcut.iso

du -cb ./*.iso | tail -1
