package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ha/agent/sandbox"
)

// Where a host's disks are. It is a directory that exists on every Linux and that
// no build lives in: inside a host it is hidden.
const (
	disksAt   = "/srv"
	AgentDisk = disksAt + "/ha"    // the agent's data dir is there
	MySQLDisk = disksAt + "/mysql" // mysqld's data, socket and log are there
)

// Sizes of the disks, in bytes. They are sparse files in memory.
const (
	agentDiskSize = 64 << 20
	mysqlDiskSize = 1200 << 20
)

// newImage makes an ext4 file system with the contents of a directory, in a file
// in memory that goes with the last process that has it open.
func newImage(ctx context.Context, name string, size int64, from string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	if err := f.Truncate(size); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	args := []string{"-q", "-F", "-m", "0"}
	if from != "" {
		args = append(args, "-d", from)
	}
	path := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd)
	if out, err := exec.CommandContext(ctx, "mkfs.ext4", append(args, path)...).CombinedOutput(); err != nil {
		return nil, errors.Join(fmt.Errorf("mkfs.ext4: %w: %s", err, out), f.Close())
	}
	return f, nil
}

// copyImage copies an image, but for its holes.
func copyImage(from *os.File, name string) (*os.File, error) {
	info, err := from.Stat()
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	to := os.NewFile(uintptr(fd), name)
	err = to.Truncate(info.Size())
	for at := int64(0); err == nil && at < info.Size(); {
		var begin, end int64
		if begin, err = unix.Seek(int(from.Fd()), at, unix.SEEK_DATA); errors.Is(err, unix.ENXIO) {
			err = nil
			break
		}
		if err == nil {
			end, err = unix.Seek(int(from.Fd()), begin, unix.SEEK_HOLE)
		}
		if err == nil {
			_, err = io.Copy(io.NewOffsetWriter(to, begin), io.NewSectionReader(from, begin, end-begin))
		}
		at = end
	}
	if err != nil {
		return nil, errors.Join(err, to.Close())
	}
	return to, nil
}

// newMySQLImage is a disk with an initialised data directory on it.
func newMySQLImage(ctx context.Context, mysqld, tmp string) (*os.File, error) {
	root := filepath.Join(tmp, "root")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return nil, err
	}
	defer os.RemoveAll(root)
	data := filepath.Join(root, "data")
	if err := sandbox.InitData(ctx, mysqld, data); err != nil {
		return nil, err
	}
	// Every server needs a server_uuid of its own.
	if err := os.Remove(filepath.Join(data, "auto.cnf")); err != nil {
		return nil, err
	}
	return newImage(ctx, "lab-mysql", mysqlDiskSize, root)
}

// mountImage mounts an image. When it is unmounted, which the end of its mount
// namespace does, the loop device is free again.
func mountImage(image *os.File, at string) error {
	if err := os.Mkdir(at, 0o755); err != nil {
		return err
	}
	for end := time.Now().Add(10 * time.Second); ; {
		err := tryMount(image, at)
		// Somebody else may have taken the device that was free.
		if !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			return err
		}
	}
}

func tryMount(image *os.File, at string) error {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer control.Close()
	n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return err
	}
	path := fmt.Sprintf("/dev/loop%d", n)
	dev, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer dev.Close()
	config := unix.LoopConfig{Fd: uint32(image.Fd())}
	config.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
	copy(config.Info.File_name[:], image.Name())
	if err := unix.IoctlLoopConfigure(int(dev.Fd()), &config); err != nil {
		return err
	}
	return unix.Mount(path, at, "ext4", unix.MS_NOATIME, "")
}

// loopOf is the loop device that has an image; empty: none has it.
func loopOf(image *os.File) (string, error) {
	want := "memfd:" + image.Name()
	found, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return "", err
	}
	for _, path := range found {
		if text, err := os.ReadFile(path); err == nil && strings.Contains(string(text), want+" ") {
			return filepath.Base(filepath.Dir(filepath.Dir(path))), nil
		}
	}
	return "", nil
}

// FIFREEZE and FITHAW.
const (
	fiFreeze = 0xc0045877
	fiThaw   = 0xc0045878
)

// Freeze lets whoever writes to a disk wait, as a disk does that hangs, until
// [Host.Thaw].
func (h *Host) Freeze(disk string) error {
	return h.onDisk(disk, func(fd int) error { return unix.IoctlSetInt(fd, fiFreeze, 0) })
}

// Thaw ends Freeze.
func (h *Host) Thaw(disk string) error {
	return h.onDisk(disk, func(fd int) error { return unix.IoctlSetInt(fd, fiThaw, 0) })
}

// EXT4_IOC_SHUTDOWN, and that not even the journal is written first.
const (
	ext4Shutdown   = 0x8004587d
	ext4NoLogFlush = 2
)

// losePower takes a disk away from its file system, with what was not synced.
func (h *Host) losePower(disk string) error {
	return h.onDisk(disk, func(fd int) error { return unix.IoctlSetPointerInt(fd, ext4Shutdown, ext4NoLogFlush) })
}

func (h *Host) onDisk(disk string, do func(fd int) error) error {
	f, err := os.Open(h.Path(disk))
	if err != nil {
		return err
	}
	defer f.Close()
	return do(int(f.Fd()))
}

// ReadOnly makes the kernel believe that a disk is broken: the file system aborts
// its journal and takes no more writes, as ext4 does on an I/O error. Only the
// host's next boot ends it.
func (h *Host) ReadOnly(disk string) error {
	return h.run("mount", "-o", "remount,abort", disk)
}

// fillFile is what fills a disk.
const fillFile = "lab.full"

// Fill leaves no room on a disk.
func (h *Host) Fill(disk string) error {
	f, err := os.OpenFile(h.Path(filepath.Join(disk, fillFile)), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	// Ever smaller pieces, until not even a block is left.
	var size int64
	for piece := int64(64 << 20); piece >= 4096; {
		if err := unix.Fallocate(int(f.Fd()), 0, size, piece); errors.Is(err, unix.ENOSPC) {
			piece /= 2
		} else if err != nil {
			return err
		} else {
			size += piece
		}
	}
	return nil
}

// Free ends Fill.
func (h *Host) Free(disk string) error { return os.Remove(h.Path(filepath.Join(disk, fillFile))) }
