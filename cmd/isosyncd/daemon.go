package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"isosyncd/config"
	"isosyncd/control"
)

// reach finds the running daemon of these settings, and its state. Where nobody answers, the error is
// control.ErrNotRunning; any other error is that of the first socket that is there.
func reach(ctx context.Context, l *config.Loaded) (*control.Client, *control.Status, error) {
	sockets := l.ControlSockets()
	for _, path := range sockets {
		c := control.Dial(path)
		st, err := c.Status(ctx)
		switch {
		case err == nil:
			return c, st, nil
		case !errors.Is(err, control.ErrNotRunning):
			return nil, nil, err
		}
		c.Close()
	}
	return nil, nil, fmt.Errorf("nobody answers on %s: %w", strings.Join(sockets, " or "), control.ErrNotRunning)
}

// needDaemon is reach for commands that cannot do without one.
func needDaemon(ctx context.Context, l *config.Loaded) (*control.Client, *control.Status, error) {
	c, st, err := reach(ctx, l)
	if errors.Is(err, control.ErrNotRunning) {
		err = fmt.Errorf("%w; start it with isosyncd run, or name its socket with --control", err)
	}
	return c, st, err
}
