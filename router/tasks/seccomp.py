"""The system calls that code in the sandbox may make: what Python needs to compute and to use its own files.

All other calls fail, also those that a future kernel adds. Above all: no new processes and no programs (so no fork
bombs, daemons or shells), no sockets, no signals to other processes, no access to them, no namespaces, no mounts, and
no memory that rlimits don't count (memfd, System V).
"""

import errno
import os
from functools import cache
from typing import Any

from router.errors import MissingDependency

_CLONE_THREAD = 0x10000
_ALLOWED = """
    access arch_prctl brk chdir chmod clock_getres clock_gettime clock_nanosleep close close_range copy_file_range creat
    dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd2 exit exit_group
    faccessat faccessat2 fadvise64 fallocate fchdir fchmod fchmodat fcntl fdatasync flock fstat fstatfs fsync ftruncate
    futex futex_waitv getcpu getcwd getdents getdents64 getegid geteuid getgid getgroups getitimer getpgid getpgrp
    getpid getppid getrandom getresgid getresuid getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday
    getuid lseek lstat madvise membarrier mincore mkdir mkdirat mmap mprotect mremap msync munmap nanosleep newfstatat
    open openat pause pipe pipe2 poll ppoll pread64 preadv pselect6 pwrite64 pwritev read readlink readlinkat readv
    recvfrom recvmsg rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask
    rt_sigreturn rt_sigsuspend rt_sigtimedwait sched_getaffinity sched_yield select sendmsg sendto set_robust_list
    set_tid_address setitimer setrlimit shutdown sigaltstack socketpair stat statfs statx symlink symlinkat sysinfo time
    timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime
    timerfd_settime times truncate umask uname unlink unlinkat utime utimensat utimes wait4 waitid write writev
"""
_TERMINALS = (
    0x5401,
    0x5413,
    0x541B,
    0x5421,
    0x5450,
    0x5451,
)  # TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX
# Refused with EPERM. Calls in no list fail with ENOSYS, "not implemented", so that libraries fall back to others.
_FORBIDDEN = """
    accept accept4 bind bpf chroot connect execve execveat fork vfork keyctl kill listen mount pidfd_getfd pidfd_open
    pidfd_send_signal process_vm_readv process_vm_writev ptrace setns socket tgkill tkill umount2 unshare
"""


@cache
def program(*, threads: bool) -> bytes:
    """Return the filter in the kernel's format. Raises MissingDependency."""
    try:
        import pyseccomp
    except ModuleNotFoundError as error:
        raise MissingDependency("running code needs pyseccomp: pip install 'compute-optimal-router[code]'") from error
    except RuntimeError as error:
        raise MissingDependency("running code needs libseccomp: apt-get install libseccomp2") from error
    rules = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.ENOSYS))
    for name in _ALLOWED.split():
        _add(rules, pyseccomp.ALLOW, name)
    for name in _FORBIDDEN.split():
        _add(rules, pyseccomp.ERRNO(errno.EPERM), name)
    for request in _TERMINALS:
        _add(rules, pyseccomp.ALLOW, "ioctl", pyseccomp.Arg(1, pyseccomp.EQ, request))
    _add(rules, pyseccomp.ALLOW, "prlimit64", pyseccomp.Arg(0, pyseccomp.EQ, 0))  # its own limits only
    # clone3, whose flags a filter can't read, is in no list: libraries fall back to clone.
    thread = pyseccomp.Arg(0, pyseccomp.MASKED_EQ, _CLONE_THREAD, _CLONE_THREAD)
    process = pyseccomp.Arg(0, pyseccomp.MASKED_EQ, _CLONE_THREAD, 0)
    _add(rules, pyseccomp.ALLOW if threads else pyseccomp.ERRNO(errno.EPERM), "clone", thread)
    _add(rules, pyseccomp.ERRNO(errno.EPERM), "clone", process)
    with os.fdopen(os.memfd_create("seccomp"), "w+b", buffering=0) as file:  # a folder to write to may be missing
        rules.export_bpf(file)
        file.seek(0)
        return file.read()


def _add(rules: Any, action: int, name: str, *conditions: object) -> None:
    try:
        rules.add_rule(action, name, *conditions)
    except OSError as error:
        if error.errno != errno.EINVAL:  # EINVAL: this architecture or libseccomp has no such call
            raise
