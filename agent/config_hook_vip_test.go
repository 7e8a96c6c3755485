package agent

import "testing"

func TestHookManagesVIP(t *testing.T) {
	script := func(text string) string { return writeFile(t, "hook.sh", text, 0o700) }
	for _, tc := range []struct {
		name    string
		hook    Hook
		refused bool
	}{
		{"replace", Hook{"/bin/sh", "-c", "ip addr replace $HA_VIP/32 dev eth0"}, true},
		{"braces, sudo, shortened", Hook{"/bin/sh", "-c", `logger up; sudo /sbin/ip -4 a a "${HA_VIP}/24" dev eth0`}, true},
		{"change", Hook{"/bin/sh", "-c", "test -n x && ip address change ${HA_VIP%% *}/32 dev eth0"}, true},
		{"taken off", Hook{"/bin/sh", "-c", "ip addr del $HA_VIP/32 dev eth0"}, true},
		{"a verb that is not known", Hook{"/bin/sh", "-c", "ip addr $1 $HA_VIP/32 dev eth0"}, true},
		{"through a variable", Hook{"/bin/sh", "-c", "for v in $HA_VIP; do ip addr add $v/32 dev eth0; done"}, true},
		{"over two lines", Hook{"/bin/sh", "-c", "ip \\\n addr \\\n add $HA_VIP/32 dev eth0"}, true},
		{"in a sub-shell", Hook{"/bin/sh", "-c", "x=$(ip addr add $HA_VIP/32 dev eth0)"}, true},
		{"ifconfig", Hook{"/bin/sh", "-c", "ifconfig eth0:1 $HA_VIP netmask 255.255.255.255 up"}, true},
		{"announced", Hook{"/bin/sh", "-c", "arping -c 3 -U -I eth0 $HA_VIP"}, true},
		{"nmcli", Hook{"/bin/sh", "-c", "nmcli con mod eth0 +ipv4.addresses $HA_VIP/32"}, true},
		{"a list", Hook{"/sbin/ip", "addr", "add", "$HA_VIP/32", "dev", "eth0"}, true},
		{"a script", Hook{script("#!/bin/bash\nip addr add $HA_VIP/32 dev eth0\n")}, true},
		{"a script that a shell runs", Hook{"/bin/sh", script("ip addr add $HA_VIP/32 dev eth0\n")}, true},
		{"a script that is given it", Hook{"/bin/sh", "-c", script("ip addr add $1/32 dev eth0\n") + " $HA_VIP"}, true},
		{"another language", Hook{script("#!/usr/bin/python3\nfor v in os.environ['HA_VIP'].split():\n subprocess.run(['ip', 'addr', 'add', v + '/32'])\n")}, true},

		{"told to others", Hook{"/bin/sh", "-c", "curl -d \"ip=$HA_VIP\" http://dns/"}, false},
		{"looked at", Hook{"/bin/sh", "-c", "ip addr show to $HA_VIP; ip route get $HA_VIP"}, false},
		{"another address beside it", Hook{"/bin/sh", "-c", "ip addr add 192.0.2.1/32 dev lo; notify $HA_VIP"}, false},
		{"an address of its own", Hook{"/bin/sh", "-c", "ip addr add $MINE dev lo"}, false},
		{"another name", Hook{"/bin/sh", "-c", "ip addr add $HA_VIPER/32 dev eth0"}, false},
		{"is arping there", Hook{"/bin/sh", "-c", "command -v arping; notify $HA_VIP"}, false},
		{"in a comment", Hook{script("#!/bin/sh\n# ip addr add $HA_VIP dev eth0 is not for us\nnotify $HA_VIP\n")}, false},
		{"no text", Hook{script("\x00ip addr add $HA_VIP/32")}, false},
		{"in a log that it writes", Hook{"/bin/sh", "-c", "notify $HA_VIP >> " + script("ip addr add 10.0.0.10/32 dev eth0; ip addr add $HA_VIP/32\n")}, false},
		{"in a file that it sends", Hook{script("mail ops\n"), script("ip addr add $HA_VIP/32\n")}, false},
		{"a script behind words of the shell", Hook{"/bin/sh", "-c", "if true; then sudo -n X=1 bash -e " + script("ip addr add $HA_VIP/32 dev eth0\n") + "; fi"}, true},
		{"a device", Hook{"/bin/sh", "-c", "cat /dev/zero $HA_VIP"}, false},
	} {
		if command := managesVIP(tc.hook.text()); (command != "") != tc.refused {
			t.Errorf("%s: %q of %q", tc.name, command, tc.hook)
		}
	}
}
