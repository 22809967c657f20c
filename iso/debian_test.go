package iso

import (
	"errors"
	"io"
	"os"
	"testing"
)

func TestDebianImages(t *testing.T) {
	for _, want := range []struct {
		path, label, facts string
		hybrid             int64 // bytes that its MBR claims beyond its descriptors
	}{
		{"/usr/lib/grub-rescue/grub-rescue-cdrom.iso", "ISOIMAGE", "iso9660,rockridge,bios,mbr", 0},
		{"/usr/lib/memtest86+/memtest86+x64.iso", "MT86PLUS_64", "iso9660,joliet,rockridge,bios,uefi,mbr", 4194304},
		{"/usr/lib/memtest86+/memtest86+ia32.iso", "MT86PLUS_32", "iso9660,joliet,rockridge,bios,uefi,mbr", 4194304},
		{"/usr/lib/ipxe/ipxe.iso", "ISOIMAGE", "iso9660,joliet,rockridge,bios,uefi,mbr", 366592},
	} {
		t.Run(want.path, func(t *testing.T) {
			image, err := os.ReadFile(debian(t, want.path))
			if err != nil {
				t.Fatal(err)
			}
			info, err := probeBytes(t, image)
			if err != nil {
				t.Fatal(err)
			}
			if got := facts(info, err); got != want.facts || info.Label != want.label {
				t.Errorf("%s %q, want %s %q", got, info.Label, want.facts, want.label)
			}
			firm := info.DeclaredSize
			if beyond := max(info.SoftSize-firm, 0); beyond != want.hybrid {
				t.Errorf("claims %d bytes beyond its descriptors, want %d", beyond, want.hybrid)
			}

			// Cut at places where copies stop: sectors, pages, megabytes, and just before and after each end.
			cuts := []int64{34816, 36864, 65536, 1 << 20, firm / 2, firm - 2048, firm - 1, firm, firm + 1, info.SoftSize - 1, info.SoftSize}
			for n := int64(firstDescriptor + sectorSize); n < int64(len(image)); n += 131072 + 4096 {
				cuts = append(cuts, n)
			}
			for _, n := range cuts {
				if n < 0 || n > int64(len(image)) {
					continue
				}
				_, err := probeBytes(t, image[:n])
				var cut *TruncatedError
				switch is := errors.As(err, &cut); {
				case n < firm && (!is || cut.Soft || cut.Declared != firm):
					t.Errorf("%d of %d bytes: %v", n, firm, err)
				case n >= firm && n < info.SoftSize && (!is || !cut.Soft):
					t.Errorf("%d bytes, MBR wants %d: %v", n, info.SoftSize, err)
				case n >= max(firm, info.SoftSize) && err != nil:
					t.Errorf("%d bytes of %d needed: %v", n, max(firm, info.SoftSize), err)
				}
			}
		})
	}
}

func TestDebianFalseFriends(t *testing.T) {
	for path, want := range map[string]string{
		"/usr/lib/coccinelle/standard.iso":     "text",
		"/usr/share/doc/minicom/tables/mc.iso": "a character conversion table, as minicom has",
	} {
		t.Run(path, func(t *testing.T) {
			f, err := os.Open(debian(t, path))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = f.Close() }()
			_, err = ProbeFile(f)
			var not *NotISOError
			if !errors.As(err, &not) || not.LooksLike != want {
				t.Errorf("%v, want %q", err, want)
			}
			if _, err := f.Seek(0, io.SeekStart); err != nil {
				t.Error(err)
			}
		})
	}
}
