package lxdtest_test

import (
	"testing"

	"isosyncd/lxd/lxdtest"
)

func TestTry(t *testing.T) {
	lxdtest.Each(t, func(t *testing.T, s *lxdtest.Server) {
		t.Log(s.Pool(t).Space(t.Context()))
		s.Restart()
		t.Log(s.Pool(t).Volumes(t.Context()))
	})
}
