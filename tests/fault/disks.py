"""File systems that can be full or frozen. A folder of a stopped stack is moved to one, and moved back afterwards."""

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import tempfile

from checks import Failure, check

PAGE = 4096


def run(*command):
    return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True)


def why_not():
    """Returns why no size-limited file system can be mounted here; None: it can, and its limit works."""
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
                    # The first write may be partial; the second finds no room at all.
                    for _ in range(2):
                        file.write(b"x" * 8 * PAGE)
            return "a tmpfs shrunk to its contents still accepted data"
        except OSError:
            return None
        except Failure as error:
            return str(error)
        finally:
            run("umount", folder)


def why_never_frozen():
    """Returns why no file system can be frozen here; None: it can."""
    if os.geteuid() != 0:
        return "only root can mount a file system and freeze it"
    missing = [name for name in ("mkfs.ext4", "fsfreeze") if not shutil.which(name)]
    if missing:
        return "%s: not installed" % " and ".join(missing)
    with tempfile.TemporaryDirectory(prefix="acp-fault-") as folder:
        os.mkdir(os.path.join(folder, "moved"))
        try:
            with FreezingDisk(os.path.join(folder, "moved"), "16m", os.path.join(folder, "disk")) as disk, \
                    disk.frozen(60):
                return None
        except Failure as error:
            return str(error)


def thaw(place):
    done = run("fsfreeze", "--unfreeze", place)
    # "Invalid argument": it was no longer frozen.
    return done.returncode == 0 or "Invalid argument" in done.stdout


def mounted_in(folder):
    """Lists mounts left by a killed run in this folder, innermost first: (path, is it a tmpfs)."""
    with open("/proc/self/mounts", encoding="utf-8") as file:
        mounted = [line.split()[1:3] for line in file]
    inside = os.path.realpath(os.path.join(folder, "state")) + os.sep
    return [(path, kind == "tmpfs") for path, kind in reversed(mounted)
            if path.startswith(inside) and kind in ("tmpfs", "ext4")]


def clear(stack):
    """Unmounts the mounts that a killed run left in the folder of this stack, and ends processes still running there.
    Later nothing could find them."""
    left = mounted_in(stack.dir)
    for path, is_tmpfs in left:
        check(is_tmpfs or thaw(path), "%s is frozen and cannot be thawed" % path)
    if left:
        stack.down()
    for path, _ in left:
        run("umount", "--lazy", path)


def copy(source, target):
    """Copies the contents of a folder into an existing folder, or the folder to a new path."""
    done = run("cp", "-a", "--", source + "/." if os.path.isdir(target) else source, target)
    check(done.returncode == 0, "cp: %s" % done.stdout)


def unmount(place):
    done = run("umount", place)
    if done.returncode != 0:
        run("umount", "--lazy", place)


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
        shutil.rmtree(self._kept, ignore_errors=True)  # left by a killed run
        os.rename(self.folder, self._kept)
        os.mkdir(self.folder)
        shutil.copystat(self._kept, self.folder)
        about = os.stat(self._kept)
        os.chown(self.folder, about.st_uid, about.st_gid)
        done = self.try_mount()
        check(done.returncode == 0, "mount: %s" % done.stdout)
        copy(self._kept, self.folder)
        shutil.rmtree(self._kept)
        return self

    def __exit__(self, *_):
        """Moves the contents back to the folder, which is kept like the rest of the run."""
        copy(self.folder, self._kept)
        unmount(self.folder)
        os.rmdir(self.folder)
        os.rename(self._kept, self.folder)

    def _resize(self, size):
        return run("mount", "-o", "remount,size=%s" % size, self.folder)

    def fill(self):
        """Leaves no room for another page. (The kernel refuses a size below the current use.)"""
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


class FreezingDisk:
    """Replaces a folder by a link to an ext4 in a file. It can be frozen (a tmpfs cannot); writes to it then wait."""

    def __init__(self, folder, size, place):
        """place: the mount point; the file of the file system lies beside it."""
        self.folder = folder
        self.place = place
        self._size = size
        self._image = place + ".image"

    def _mount(self):
        os.makedirs(self.place, exist_ok=True)
        with open(self._image, "wb"):
            pass
        for command in (["truncate", "-s", self._size, self._image],
                        # The host does not crash in these tests, so a journal would only cost time.
                        ["mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", self._image],
                        ["mount", "-o", "loop", self._image, self.place]):
            done = run(*command)
            check(done.returncode == 0, "%s: %s" % (" ".join(command), done.stdout.strip()))

    def _unmount(self):
        unmount(self.place)
        os.rmdir(self.place)
        os.unlink(self._image)

    @property
    def _moved(self):
        return os.path.join(self.place, os.path.basename(self.folder))

    def __enter__(self):
        self._mount()
        copy(self.folder, self._moved)
        shutil.rmtree(self.folder)
        os.symlink(self._moved, self.folder)
        return self

    def __exit__(self, *_):
        """Moves the contents back to the folder, which is kept like the rest of the run."""
        thaw(self.place)
        os.unlink(self.folder)
        copy(self._moved, self.folder)
        self._unmount()

    @contextlib.contextmanager
    def frozen(self, most):
        """Freezes the file system. A guard process thaws it after that many seconds, in case this process is killed."""
        guard = subprocess.Popen(["sh", "-c", 'sleep "$1"; exec fsfreeze --unfreeze "$2"', "sh", str(most), self.place],
                                 stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                 start_new_session=True)
        try:
            done = run("fsfreeze", "--freeze", self.place)
            check(done.returncode == 0, "fsfreeze: %s" % done.stdout.strip())
            yield
        finally:
            thawed = thaw(self.place)
            if thawed:
                os.killpg(guard.pid, signal.SIGKILL)
            guard.wait(most + 60)
        check(thawed, "%s is still frozen" % self.place)

    def _take(self, file):
        """Takes all free space."""
        about = os.fstatvfs(file.fileno())
        size, step = 0, about.f_bavail * about.f_frsize
        while step >= PAGE:
            try:
                os.posix_fallocate(file.fileno(), size, step)
                size += step
            except OSError as error:
                check(error.errno == errno.ENOSPC, "fallocate: %s" % error)
                step //= 2

    @contextlib.contextmanager
    def full(self):
        ballast = os.path.join(self.place, "ballast")
        try:
            with open(ballast, "wb") as file:
                self._take(file)
            yield
        finally:
            os.unlink(ballast)
