package iso

import "errors"

// Report is an image and its verdict for machines: one JSON object with always the same keys, as inspect --json
// prints it. Texts come from the image; JSON's escapes make them safe for a line of text, but not for HTML or a shell.
type Report struct {
	File         string   `json:"file"`
	Verdict      string   `json:"verdict"` // "accept", "incomplete" or "reject"
	Reason       string   `json:"reason"`  // a sentence; "" with accept
	Formats      []string `json:"formats"` // never null
	Label        string   `json:"label"`
	Size         int64    `json:"size"`          // of the file, bytes
	DeclaredSize int64    `json:"declared_size"` // bytes that the image needs by its own account; 0 = it does not say
	BootBIOS     bool     `json:"boot_bios"`
	BootUEFI     bool     `json:"boot_uefi"`
	HybridMBR    bool     `json:"hybrid_mbr"`
	HybridGPT    bool     `json:"hybrid_gpt"`
	APM          bool     `json:"apm"`
	Joliet       bool     `json:"joliet"`
	RockRidge    bool     `json:"rock_ridge"`
	UDFRevision  string   `json:"udf_revision"` // such as "1.02"
	LooksLike    string   `json:"looks_like"`   // what it is instead; only with reject
}

// Verdict makes the report of what Probe or ProbeFile returned for file. An err that is neither of their verdicts, such
// as a read error, is a reject with that reason.
func Verdict(file string, info Info, err error) Report {
	r := Report{
		File:         file,
		Verdict:      "accept",
		Formats:      append([]string{}, info.Formats...),
		Label:        info.Label,
		Size:         info.Size,
		DeclaredSize: max(info.DeclaredSize, info.SoftSize),
		BootBIOS:     info.BootBIOS,
		BootUEFI:     info.BootUEFI,
		HybridMBR:    info.HybridMBR,
		HybridGPT:    info.HybridGPT,
		APM:          info.APM,
		Joliet:       info.Joliet,
		RockRidge:    info.RockRidge,
		UDFRevision:  info.UDFRevision,
	}
	if err == nil {
		return r
	}
	r.Verdict, r.Reason = "reject", err.Error()
	var not *NotISOError
	if errors.As(err, &not) {
		r.LooksLike = not.LooksLike
	}
	var cut *TruncatedError
	if errors.As(err, &cut) {
		r.Verdict = "incomplete"
		r.DeclaredSize = max(r.DeclaredSize, cut.Declared)
	}
	return r
}
