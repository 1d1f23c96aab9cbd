"""Measurements of the machine and of processes: processor time, memory, disk; names and versions."""

import os
import platform
import re
import statistics
import subprocess
import time

from stack import parent, processes, stat_fields

TICK = os.sysconf("SC_CLK_TCK")


def with_children(pid):
    """Returns the process and all its descendants."""
    parents = {each: parent(each) for each in processes()}
    family = {pid}
    while True:
        more = {each for each, above in parents.items() if above in family} - family
        if not more:
            return sorted(family)
        family |= more


def cpu_seconds(pid):
    """Processor time of a process and its descendants, including ended ones that were waited for."""
    total = 0
    for each in with_children(pid):
        fields = stat_fields(each)
        if fields:
            total += sum(int(ticks) for ticks in fields[11:13])
            if each == pid:
                total += sum(int(ticks) for ticks in fields[13:15])
    return total / TICK


def busy_seconds():
    """Processor time used by the whole machine, including time taken by the host (steal)."""
    with open("/proc/stat", encoding="ascii") as file:
        ticks = [int(each) for each in file.readline().split()[1:9]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = ticks
    return (user + nice + system + irq + softirq + steal) / TICK


class Strangers:
    """Measures the share of the processors that programs outside the benchmark take: mark() before, share() after.
    pids() returns the processes that, with their descendants, belong to the benchmark."""

    def __init__(self, pids):
        self._pids = pids

    def mark(self):
        """Returns the time, and the processor time used by others."""
        # Interrupts and the like belong to no process and count as others.
        return time.monotonic(), busy_seconds() - sum(cpu_seconds(pid) for pid in self._pids())

    def share(self, before):
        """Returns the share of all processor time since a mark."""
        now, used = self.mark()
        return max(0.0, (used - before[1]) / ((now - before[0]) * len(os.sched_getaffinity(0))))


def memory_bytes(pid):
    """Resident memory of a process and its descendants: RSS, which counts shared pages in each; PSS divides them."""
    rss = pss = 0
    for each in with_children(pid):
        with open("/proc/%d/smaps_rollup" % each, encoding="ascii") as file:
            text = file.read()
        rss += int(re.search(r"^Rss:\s+(\d+) kB", text, re.M).group(1)) * 1024
        pss += int(re.search(r"^Pss:\s+(\d+) kB", text, re.M).group(1)) * 1024
    return rss, pss


def fsync_ms(folder, times=300):
    """Median time to write 8 KiB (a page of the write-ahead log) and sync it to disk, repeatedly."""
    path = os.path.join(folder, "fsync.probe")
    block = os.urandom(8192)
    taken = []
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        for _ in range(times):
            began = time.perf_counter()
            os.pwrite(fd, block, 0)
            os.fdatasync(fd)
            taken.append((time.perf_counter() - began) * 1000)
    finally:
        os.close(fd)
        os.unlink(path)
    return statistics.median(taken)


def first_line(*command):
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, timeout=20)
    except OSError:
        return None
    return done.stdout.strip().partition("\n")[0]


def file_field(path, pattern):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            found = re.search(pattern, file.read(), re.M)
    except OSError:
        found = None
    return found.group(1).strip() if found else "unknown"


def machine():
    """Describes the machine."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": file_field("/proc/cpuinfo", r"^model name\s*:(.*)$"),
        "virtual machine": "hypervisor" in file_field("/proc/cpuinfo", r"^flags\s*:(.*)$").split(),
        "memory": "%.0f GiB" % (os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2 ** 30),
        "kernel": platform.release(),
        "system": file_field("/etc/os-release", r'^PRETTY_NAME="?([^"\n]*)'),
    }


def versions():
    """Versions of the programs involved, by their own output."""
    found = {}
    for name, command, pattern in (("lighttpd", ("lighttpd", "-v"), r"lighttpd/([0-9.]+)"),
                                   ("nginx", ("nginx", "-v"), r"nginx/([0-9.]+)"),
                                   ("Apache", ("apache2", "-v"), r"Apache/([0-9.]+)"),
                                   ("wrk", ("wrk", "-v"), r"wrk (?:debian/)?([0-9.]+)")):
        match = re.search(pattern, first_line(*command) or "")
        if match:
            found[name] = match.group(1)
    return found


def load_average():
    return os.getloadavg()[0]
