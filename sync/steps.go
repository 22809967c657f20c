package sync

import "slices"

// made are the steps of everything that makes and marks a volume.
var made = []string{"intent", "sent", "seen", "marked", "present"}

// stepsOf lists, by kind of action, the steps at which Config.Step is called. What stands between two of them is done or
// not done, whenever the process dies; the crash matrix dies at each.
var stepsOf = map[ActionKind][]string{
	ActHash:    nil,
	ActAwait:   {"seen", "marked", "present"},
	ActMark:    {"marked", "present"},
	ActDiscard: {"delete", "deleted"},
	ActImport:  made,
	ActEarly:   slices.Concat([]string{"open", "finished"}, made),
	ActCopy:    made,
	ActStage:   made,
	ActSwap:    slices.Concat([]string{"delete", "deleted"}, made),
	ActSpool:   {"held"},
	ActInPlace: slices.Concat([]string{"delete", "deleted"}, made),
	ActRestore: made,
	ActUnstage: {"delete", "deleted"},
	ActPrune:   {"delete", "deleted"},
	ActRemove:  {"delete", "deleted", "unlinked"},
	ActConsume: {"noted", "unlinked"},
	ActAdopt:   {"marked"},
}

// Steps lists all names that Config.Step may be called with.
func Steps() []string {
	var all []string
	for kind, steps := range stepsOf {
		all = append(all, string(kind)+".begin")
		for _, s := range steps {
			all = append(all, string(kind)+"."+s)
		}
	}
	slices.Sort(all)
	return all
}
