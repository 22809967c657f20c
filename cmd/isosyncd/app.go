package main

import (
	"context"
	"errors"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"isosyncd/config"
)

// The exit codes besides 0 and config.ExitCode.
const (
	exitFailed = 1
	exitUsage  = 2
)

// app is what all commands share: where they print to, and the settings.
type app struct {
	stdout, stderr io.Writer
	configFile     string // --config
}

// run is the whole program but for the process around it: it returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	a := &app{stdout: stdout, stderr: stderr}
	root := newRootCommand(a)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var quiet *silentError
	if err == nil {
		return 0
	}
	if !errors.As(err, &quiet) {
		a.complain(err)
	}
	return exitCode(err)
}

// exitCode asks the error: usage errors, configuration errors and silentErrors know theirs.
func exitCode(err error) int {
	var coded interface {
		error
		ExitCode() int
	}
	if errors.As(err, &coded) {
		return coded.ExitCode()
	}
	return exitFailed
}

// silentError is an exit code for a command that has said all there is to say.
type silentError struct{ code int }

func (e *silentError) Error() string { return "" }

// ExitCode is the code.
func (e *silentError) ExitCode() int { return e.code }

// usageError is a command line that makes no sense.
type usageError struct {
	err     error
	command string // "" = the program as a whole
}

func (e *usageError) Error() string {
	return e.err.Error() + "\nSee: " + e.command + " --help"
}

func (e *usageError) Unwrap() error { return e.err }

// ExitCode is that of wrong usage.
func (e *usageError) ExitCode() int { return exitUsage }

// badConfig is an error that only a change of the configuration can mend.
type badConfig struct{ error }

func (e *badConfig) Unwrap() error { return e.error }

// ExitCode is that of a wrong configuration.
func (e *badConfig) ExitCode() int { return config.ExitCode }

// complain prints an error for a person.
func (a *app) complain(err error) {
	lead := "isosyncd: "
	if a.colour(a.stderr) {
		lead = "\x1b[31misosyncd:\x1b[0m "
	}
	// A reader of stderr that went away must not change the exit code.
	_, _ = io.WriteString(a.stderr, lead+err.Error()+"\n")
}

// settings reads file, environment and the flags of cmd that are settings. The error is a *config.Error.
func (a *app) settings(cmd *cobra.Command) (*config.Loaded, error) {
	return config.Load(config.Options{File: a.configFile, Flags: settingFlags(cmd)})
}

// isTerminal reports whether w is a terminal.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// colour reports whether w is to be coloured: a terminal, and nobody said otherwise (no-color.org).
func (a *app) colour(w io.Writer) bool {
	return isTerminal(w) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}
