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
// control.ErrNotRunning; any other error is that of the sockets that are there, and do not answer us.
func reach(ctx context.Context, l *config.Loaded) (*control.Client, *control.Status, error) {
	sockets := l.ControlSockets()
	var others []error
	for _, path := range sockets {
		c := control.Dial(path)
		st, err := c.Status(ctx)
		switch {
		case err == nil:
			return c, st, nil
		case !errors.Is(err, control.ErrNotRunning):
			others = append(others, err) // another may be ours to ask: a HOME of somebody else's has one that is not
		}
		c.Close()
	}
	if len(others) > 0 {
		return nil, nil, errors.Join(others...)
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
