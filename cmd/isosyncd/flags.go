package main

import (
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"isosyncd/config"
)

// settingAnnotation marks flags that are settings; its value is the key.
const settingAnnotation = "isosyncd_setting"

// addSettings gives cmd the flags of these settings, or of all where none is named.
func addSettings(cmd *cobra.Command, keys ...string) {
	for _, k := range config.Keys() {
		if len(keys) > 0 && !slices.Contains(keys, k.Name) {
			continue
		}
		value := &settingValue{text: k.Default, kind: k.Kind}
		f := cmd.Flags().VarPF(value, k.Flag(), "", k.Usage)
		f.Annotations = map[string][]string{settingAnnotation: {k.Name}}
		switch k.Kind {
		case config.KindBool:
			f.NoOptDefVal = "true"
		case config.KindChoice:
			// Only a flag that does not exist makes this fail.
			_ = cmd.RegisterFlagCompletionFunc(k.Flag(), cobra.FixedCompletions(k.Choices, cobra.ShellCompDirectiveNoFileComp))
		}
	}
}

// addServer gives cmd the flags that choose server and pool.
func addServer(cmd *cobra.Command) {
	addSettings(cmd, "remote", "project", "pool", "target", "state_dir", "owner", "folder")
}

// settingFlags are the settings that the command line gives.
func settingFlags(cmd *cobra.Command) map[string]string {
	given := make(map[string]string)
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if key := f.Annotations[settingAnnotation]; len(key) == 1 {
			given[key[0]] = f.Value.String()
		}
	})
	return given
}

// settingValue is a flag's text; package config checks it together with everything else.
type settingValue struct {
	text string
	kind config.Kind
}

var _ pflag.Value = (*settingValue)(nil)

func (v *settingValue) String() string { return v.text }

// Set takes any text.
func (v *settingValue) Set(text string) error {
	v.text = text
	return nil
}

// Type is what --help shows for the value.
func (v *settingValue) Type() string {
	if v.kind == config.KindBool {
		return "bool" // which pflag does not show
	}
	return string(v.kind)
}
