// Command up makes a lab, says how to enter its hosts, and keeps it until Ctrl-C.
//
//	sudo go run ./lab/up [--hosts 3] [--witnesses 0] [--clients 2]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"ha/agent/sandbox"
	"ha/lab"
)

func main() {
	lab.Main()
	var o lab.Options
	flag.IntVar(&o.Hosts, "hosts", 3, "hosts with a mysqld")
	flag.IntVar(&o.Witnesses, "witnesses", 0, "hosts without")
	flag.IntVar(&o.Clients, "clients", 2, "clients on the network")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o)
	stop()
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o lab.Options) error {
	if m := lab.Missing(); m != "" {
		return fmt.Errorf("no lab can be made here: %s", m)
	}
	here, err := filepath.Abs("ha")
	if err != nil {
		return err
	}
	if o.Mysqld, err = sandbox.FindMysqld("", here); err != nil {
		return err
	}
	if o.Dir, err = lab.Scratch(); err != nil {
		return err
	}
	defer os.RemoveAll(o.Dir)
	o.Progress = func(what string) { fmt.Println(what + " ...") }
	l, err := lab.Up(ctx, o)
	if err != nil {
		return err
	}
	defer l.Down()
	fmt.Println("\nEnter a host (ha status, ip address, mysql … work there):")
	for _, h := range l.Hosts {
		fmt.Printf("  %-4s %-12s %s\n       log: %s\n", h.Name, h.Addr, h.Enter(), h.AgentLog())
	}
	fmt.Println("Be a client (ping, arp, mysql -h", lab.VIP, "-u app -papp app):")
	for _, c := range l.Clients {
		fmt.Printf("  %-4s %-12s %s\n", c.Name, c.Addr, c.Enter())
	}
	fmt.Println("The switch (tcpdump, ip link set to-n1 down, …):", l.EnterSwitch())
	fmt.Println("All of it goes with Ctrl-C.")
	<-ctx.Done()
	return nil
}
