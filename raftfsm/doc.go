// Package raftfsm is the replicated state of a cluster and the pure decisions
// on it: who is the primary, who may acknowledge its commits, and what is done
// next. It has no clock, I/O, goroutine, randomness or Raft import; time enters
// as ages in a View, evidence as Answers to Orders.
//
// Two functions carry it: Machine.Apply changes the State by one committed
// Command, and Decide looks at State and View and says which commands to commit
// and which orders to give. "Record, then act": an order is given only under
// the index of a command that is already committed.
package raftfsm
