//go:build race

package raftfsmtest

const raceEnabled = true
