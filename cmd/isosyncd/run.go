package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"isosyncd/config"
)

func newRunCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Keep a folder and a pool together until told to stop: the daemon",
		Long: `Keep a folder and a pool together until told to stop.

Every flag is a setting: the same can be written into the configuration file (isosyncd config --example) or given as an
environment variable. SIGTERM and SIGINT end it in an orderly way, SIGHUP makes it read its configuration again.

The exit code is 78 if the configuration must be changed first, or no server was found.`,
		Example: `  isosyncd run --folder /srv/iso-drop
  isosyncd run --folder /srv/iso-drop --remote incus:prod --project images --pool fast
  isosyncd run --folder /srv/iso-drop --remote store:/srv/isos`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runDaemon(cmd, "") },
	}
	addSettings(cmd)
	return cmd
}

func newMountCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "mount DIR",
		Short: "Like run, and show the volumes as files in a directory",
		Long: `Like run, and show the ISO volumes of the pool as read-only files in a directory. What is copied there is imported: cp
ends when the volume is there, and fails with the reason if it could not be made.`,
		Example: `  isosyncd mount /srv/iso --folder /srv/iso-drop
  cp debian-13.iso /srv/iso/`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.runDaemon(cmd, args[0]) },
	}
	addSettings(cmd)
	return cmd
}

// runDaemon reads the settings, and runs the daemon until a signal or the command's context ends it.
func (a *app) runDaemon(cmd *cobra.Command, mount string) error {
	if mount != "" {
		if err := cmd.Flags().Set("mount", mount); err != nil {
			return usage(cmd, "%w", err)
		}
	}
	cfg, err := a.settings(cmd)
	if err != nil {
		return err
	}
	if err := cfg.CheckRun(); err != nil {
		return err
	}
	log, err := newLogger(a.stderr, &cfg.Settings)
	if err != nil {
		return &badConfig{err}
	}
	for _, w := range cfg.Warnings {
		log.Warn("something of the environment was ignored", "err", w)
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50) // a daemon that mostly waits: memory is dearer than the time to collect it
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	// A second signal ends it at once: whoever sends it does not want to wait.
	context.AfterFunc(ctx, stop)
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)

	d := &instance{
		cfg: cfg, log: log, notify: newNotifier(log.Logger),
		reload:  func() (*config.Loaded, error) { return a.settings(cmd) },
		hangups: hangups,
	}
	err = d.run(ctx)
	if err != nil && !errors.As(err, new(*badConfig)) {
		// Where nobody reads stderr, the log must have it, too; an error is returned or logged, and this is the one
		// place where the reader may be another.
		log.Log(context.WithoutCancel(ctx), slog.LevelError, "stopped", "err", err)
		return &silentError{exitCode(err)}
	}
	return err
}

// applyReload takes over what can change while running, and says what cannot. It returns the settings in effect.
func applyReload(log *logger, old, now *config.Loaded) {
	var restart []string
	for _, k := range old.Changes(&now.Settings) {
		if !k.Live {
			restart = append(restart, k.Name)
		}
	}
	if err := log.reload(&now.Settings); err != nil {
		log.Error("the log level stays", "err", err)
	}
	if len(restart) > 0 {
		log.Warn("these settings changed and need a restart", "err", fmt.Sprint(restart))
	}
	log.Info("the configuration was read again")
}
