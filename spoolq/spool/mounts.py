"""What file system a path is on: its kind, and which mount of it. Reads only.

A spool is refused on network file systems, where renames and locks of several hosts do not do what is promised.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import NamedTuple

NETWORK = frozenset(
    "nfs nfs4 cifs smb3 smbfs ncpfs afs ceph glusterfs lustre 9p fuse.sshfs fuse.glusterfs fuse.s3fs fuse.rclone"
    " fuse.ceph beegfs gfs2 ocfs2 orangefs pvfs2 gpfs".split()
)
LACKING = frozenset("vfat msdos exfat ntfs ntfs3 fuseblk iso9660 squashfs proc sysfs".split())
"""Without modes, or without a rename that replaces nothing half-way, or not to be written."""

_AT_FDCWD = -100
_STATX_MNT_ID_UNIQUE = 0x4000
_STATX_MNT_ID = 0x1000


class Mount(NamedTuple):
    """kind: as in mount(8), "" where unknown. identity: differs after an unmount and mount, "" where unknown."""

    kind: str
    identity: str


class _Statx(ctypes.Structure):
    """The part of Linux's struct statx up to the mount id, and room for the rest."""

    _fields_ = (
        ("mask", ctypes.c_uint32),
        ("before", ctypes.c_uint8 * 140),
        ("mnt_id", ctypes.c_uint64),
        ("rest", ctypes.c_uint8 * 104),
    )


def mount_of(path: str) -> Mount:
    """The mount that a path is on. Cheap: one system call and one read of /proc."""
    if not sys.platform.startswith("linux"):
        return Mount("", "")
    return Mount(_kind(path), _identity(path))


def _identity(path: str) -> str:
    """The mount's id, unique since boot where the kernel has that (6.8), else one that may be used again."""
    statx = getattr(ctypes.CDLL(None), "statx", None)
    if statx is None:
        return ""
    out = _Statx()
    asked = _STATX_MNT_ID_UNIQUE | _STATX_MNT_ID
    if statx(_AT_FDCWD, os.fsencode(path), 0, asked, ctypes.byref(out)) != 0:
        return ""
    return str(out.mnt_id) if out.mask & asked else ""


def _kind(path: str) -> str:
    """The file system's name in /proc/self/mountinfo, by its device."""
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    real = os.path.realpath(path)
    best, kind = -1, ""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                fields, _, rest = line.partition(" - ")
                parts = fields.split()
                point = parts[4].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
                inside = real == point or real.startswith(point.rstrip("/") + "/")
                # By device, and where that is not found (btrfs subvolumes have their own), by the longest path.
                weight = len(point) + (1_000_000 if parts[2] == wanted else 0)
                if inside and weight >= best:
                    best, kind = weight, rest.split()[0]
    except FileNotFoundError:
        return ""
    return kind
