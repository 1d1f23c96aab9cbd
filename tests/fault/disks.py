"""File systems that can be full: a folder of a stack that is down is moved to a tmpfs, and back afterwards."""

import contextlib
import os
import shutil
import subprocess
import tempfile

from harness import Failure, check

PAGE = 4096


def run(*command):
    return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True)


def why_not():
    """Why no file system can be mounted here; None: one can, and it refuses what is too much."""
    if os.geteuid() != 0:
        return "only root can mount a file system of limited size"
    with tempfile.TemporaryDirectory(prefix="acp-fault-") as folder:
        disk = Disk(folder, "1m")
        done = disk.try_mount()
        if done.returncode != 0:
            return "mount -t tmpfs: %s" % done.stdout.strip()
        try:
            with open(os.path.join(folder, "file"), "wb", buffering=0) as file:
                file.write(b"x" * PAGE)
                with disk.full():
                    # The first write may take a part, and the second finds no room at all.
                    for _ in range(2):
                        file.write(b"x" * 8 * PAGE)
            return "a tmpfs that was made as small as what it holds still took data"
        except OSError:
            return None
        except Failure as error:
            return str(error)
        finally:
            run("umount", folder)


def clear(folder):
    """Takes away what a run in this folder that was killed left mounted."""
    with open("/proc/self/mounts", encoding="utf-8") as file:
        mounted = [line.split()[1] for line in file if line.split()[2] == "tmpfs"]
    inside = os.path.realpath(os.path.join(folder, "state")) + os.sep
    for path in mounted:
        if path.startswith(inside):
            run("umount", "--lazy", path)


class Disk:
    def __init__(self, folder, size):
        self.folder = folder
        self._size = size
        self._kept = folder + ".kept"

    def try_mount(self):
        about = os.stat(self.folder)
        return run("mount", "-t", "tmpfs", "-o", "size=%s,mode=%o,uid=%d,gid=%d" % (
            self._size, about.st_mode & 0o7777, about.st_uid, about.st_gid), "tmpfs", self.folder)

    def __enter__(self):
        os.rename(self.folder, self._kept)
        os.mkdir(self.folder)
        shutil.copystat(self._kept, self.folder)
        about = os.stat(self._kept)
        os.chown(self.folder, about.st_uid, about.st_gid)
        done = self.try_mount()
        check(done.returncode == 0, "mount: %s" % done.stdout)
        self._copy(self._kept, self.folder)
        shutil.rmtree(self._kept)
        return self

    def __exit__(self, *_):
        """What it holds is kept, as everything that was run."""
        self._copy(self.folder, self._kept)
        done = run("umount", self.folder)
        if done.returncode != 0:
            run("umount", "--lazy", self.folder)
        os.rmdir(self.folder)
        os.rename(self._kept, self.folder)

    @staticmethod
    def _copy(source, target):
        done = run("cp", "-a", "--", source + "/." if os.path.isdir(target) else source, target)
        check(done.returncode == 0, "cp: %s" % done.stdout)

    def _resize(self, size):
        return run("mount", "-o", "remount,size=%s" % size, self.folder)

    def fill(self):
        """From now on there is no room for one page more. (The kernel refuses a size below what is used just now.)"""
        for slack in range(64):
            about = os.statvfs(self.folder)
            used = (about.f_blocks - about.f_bfree) * about.f_frsize
            done = self._resize(max(used, PAGE) + slack * PAGE)
            if done.returncode == 0:
                return
        raise Failure("%s cannot be made full: %s" % (self.folder, done.stdout))

    @contextlib.contextmanager
    def full(self):
        self.fill()
        try:
            yield
        finally:
            done = self._resize(self._size)
            check(done.returncode == 0, "remount: %s" % done.stdout)
