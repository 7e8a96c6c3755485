//go:build !race

package raftfsmtest

const raceEnabled = false
