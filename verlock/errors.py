"""Every way verlock can fail: a class per kind, an exit code per class, and a sentence that says what to do.

`cli.main` catches `VerlockError`, prints its text to standard error and exits with its `exit_code`; anything else that
escapes is a bug and shows its traceback. Codes 1 and 2 keep their usual meaning (a bug; a wrong command line).
"""

from __future__ import annotations

import errno
import os


class VerlockError(Exception):
    """Base of all errors a user can meet.

    Args:
        problem: what is wrong, one sentence, with the names and figures that matter.
        remedy: what the user can do about it, one sentence.
    """

    exit_code = 1

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.problem}\n  {self.remedy}" if self.remedy else self.problem


# 10-19: what people edit -------------------------------------------------------------------------


class UnknownVariant(VerlockError):
    """The named variant has no recipe."""

    exit_code = 10


class RecipeError(VerlockError):
    """A recipe.toml is not TOML, or does not fit the model: names file, key and what is allowed."""

    exit_code = 11


class LockError(VerlockError):
    """A lock is missing, malformed, or has a line without a hash."""

    exit_code = 12


class StaleLock(VerlockError):
    """`lock --check`: environments/ or recipes/ changed after the lock was made."""

    exit_code = 13


class ResolverDisagreement(VerlockError):
    """uv and pip, or the conda and the pip layer, do not choose the same version of a package."""

    exit_code = 14


class ResolutionError(VerlockError):
    """No set of packages satisfies the inputs."""

    exit_code = 15


class CertificateError(VerlockError):
    """A certificate cannot be read, or has not what a certificate has."""

    exit_code = 16


class OverrideUnneeded(VerlockError):
    """A recipe sets aside a requirement that nothing asks for, or that could be met."""

    exit_code = 17


class NothingFound(VerlockError):
    """`find`: neither papers.toml nor a lock has what was asked for."""

    exit_code = 18


# 20-29: this machine, and what it can reach ----------------------------------------------------------


class PlatformMismatch(VerlockError):
    """The operating system, processor or C library is not one the lock was made for."""

    exit_code = 20


class DiskTooSmall(VerlockError):
    """The file system has no room for the environment: says how much is needed and how much is free."""

    exit_code = 21


class DriverTooOld(VerlockError):
    """The GPU's driver is older than the variant's CUDA needs."""

    exit_code = 22


class NoBase(VerlockError):
    """Neither a conda channel nor a host CPython of the right minor version is available."""

    exit_code = 23


class NetworkError(VerlockError):
    """A host does not answer: names it."""

    exit_code = 24


class IntegrityError(VerlockError):
    """The bytes are not those the lock names: says what was wanted and what came."""

    exit_code = 25

    @classmethod
    def of(cls, what: str, wanted: object, got: object, remedy: str = "") -> IntegrityError:
        """An integrity error, in the form all of them share."""
        return cls(f"{what} is not what the lock names\n  wanted  {wanted}\n  got     {got}", remedy)


class InstallError(VerlockError):
    """uv, pip or the conda engine could not install the locked packages."""

    exit_code = 26


class CheckFailed(VerlockError):
    """The finished environment does not import, or reports other versions than the lock."""

    exit_code = 27


class ArtefactMissing(VerlockError):
    """`--strict`: an optional artefact is not available."""

    exit_code = 28


class ToolMissing(VerlockError):
    """A program the host must provide (git, a C compiler) is not installed."""

    exit_code = 29


class GpuUnsupported(VerlockError):
    """The variant's torch has no kernels for any GPU of this machine."""

    exit_code = 37


# 30-39: sources and patches ----------------------------------------------------------------------


class SourceUnavailable(VerlockError):
    """None of the places asked has the commit."""

    exit_code = 30


class SourceMismatch(VerlockError):
    """The commit's tree is not the one the recipe names."""

    exit_code = 31


class SourceStoreDamaged(VerlockError):
    """The local store of sources is truncated or was changed by hand."""

    exit_code = 32


class PatchRejected(VerlockError):
    """A patch does not apply: names the hunk and the text found there."""

    exit_code = 33


class PatchPartlyApplied(VerlockError):
    """Some hunks of a patch are applied and others are not."""

    exit_code = 34


class BuildError(VerlockError):
    """A wheel could not be built from its source."""

    exit_code = 35


class CompilerMissing(VerlockError):
    """There is no CUDA compiler of the variant's CUDA version."""

    exit_code = 36


class CheckoutUnknown(VerlockError):
    """`--editable`: the commit of that release is not known."""

    exit_code = 38


class CheckoutRefused(VerlockError):
    """`--editable`: what lies at the place of the checkout is none of that commit, or cannot be compared with it."""

    exit_code = 39


# 40-49: `verlock verify`, one code per kind of damage, worst first -----------------------------------


class NotSealed(VerlockError):
    """There is no receipt: the environment was never finished."""

    exit_code = 40


class ReceiptStale(VerlockError):
    """The environment is complete, but was made from another lock."""

    exit_code = 41


class PackageMissing(VerlockError):
    """A locked package is not installed."""

    exit_code = 42


class PackageChanged(VerlockError):
    """A package is installed at another version or from another artefact than locked."""

    exit_code = 43


class PackageAdded(VerlockError):
    """A package is installed that no lock names."""

    exit_code = 44


class PatchUndone(VerlockError):
    """A file that a patch changed no longer has the patched text."""

    exit_code = 45


class FileChanged(VerlockError):
    """An installed file has other bytes than its package recorded."""

    exit_code = 46


class FileMissing(VerlockError):
    """An installed file is gone."""

    exit_code = 47


class FileAdded(VerlockError):
    """A file in site-packages belongs to no package."""

    exit_code = 48


class Incomplete(VerlockError):
    """`--strict`: an optional artefact is not in the environment."""

    exit_code = 49


# 50-59: smoke --------------------------------------------------------------------------------------


class NoGpu(VerlockError):
    """The smoke run needs a GPU, or more GPUs than there are."""

    exit_code = 50


class GateFailed(VerlockError):
    """A smoke gate is red."""

    exit_code = 51


class SmokeHung(VerlockError):
    """The watchdog ended a smoke run that made no progress."""

    exit_code = 52


class SmokeCrashed(VerlockError):
    """A smoke process died before it could report."""

    exit_code = 53


class BenchFailed(VerlockError):
    """Cells of the rollout benchmark are red; the others were measured."""

    exit_code = 54


class ModelRefused(VerlockError):
    """`smoke --model`: there is no such model, it is not whole, or the environment cannot run it."""

    exit_code = 55


class NodesDiffer(VerlockError):
    """The agents of a smoke run on several nodes do not mean the same run: says what is not the same."""

    exit_code = 56


class NodeMissing(VerlockError):
    """An agent of a smoke run on several nodes did not come, or is gone."""

    exit_code = 57


# 60-69: files and folders --------------------------------------------------------------------------


class FileRefused(VerlockError):
    """The operating system refuses a file or folder: not writable, read-only, damaged, in use."""

    exit_code = 60


class SiteWheelRefused(VerlockError):
    """A site wheel does not exist, is not a wheel, or does not fit: says what was wanted and what came."""

    exit_code = 61


class ExportRefused(VerlockError):
    """A lock cannot be written in another form: says what its index lacks, or would give away."""

    exit_code = 62


class VulnerabilityFound(VerlockError):
    """`audit`: a package has a known vulnerability that the recipe does not accept."""

    exit_code = 63


class AuditIncomplete(VerlockError):
    """`audit`: some package could not be asked about, or the file of advisories is none."""

    exit_code = 64


class Unfit(VerlockError):
    """`doctor` found something on this machine, or in an environment, that will go wrong."""

    exit_code = 65


class RunnerMissing(VerlockError):
    """The environment has no bin/verlock-run: an older verlock made it."""

    exit_code = 66


# 70-79: bundles and moved environments ----------------------------------------------------------------


class BundleMissing(VerlockError):
    """A file of a bundle is not there."""

    exit_code = 70


class BundleAltered(VerlockError):
    """A file of a bundle has other bytes than its manifest names."""

    exit_code = 71


class BundleExtra(VerlockError):
    """A bundle's folder holds a file that its manifest does not name."""

    exit_code = 72


class BundleRefused(VerlockError):
    """A bundle cannot be made of this clone or machine, or does not hold what is asked of it."""

    exit_code = 73


class RelocateRefused(VerlockError):
    """An environment cannot be moved: says which of its files stands against it."""

    exit_code = 74


_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_REFUSED = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ESTALE, errno.EBUSY, errno.ENAMETOOLONG, errno.EMFILE}
    | {errno.ENOTDIR, errno.EISDIR, errno.ELOOP}  # something else lies where a folder or a file belongs
)


def of_system(error: OSError) -> VerlockError | None:
    """The error for what the operating system refused; None where it is more likely a bug in verlock."""
    where = error.filename2 or error.filename or "a file"
    said = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in _FULL:
        return DiskTooSmall(f"{where}: {said}", "free some space and run again: what was finished is kept")
    if error.errno == errno.EAGAIN:
        return FileRefused(
            f"{where}: {said}: this user or machine runs as many programs as it may",
            "end some of them, or raise the limit (`ulimit -u`), and run again",
        )
    if error.errno in _REFUSED:
        return FileRefused(
            f"{where}: {said}",
            "check what lies there and who may write there, "
            "or choose other folders with VERLOCK_ENVS, VERLOCK_CACHE and UV_CACHE_DIR",
        )
    return None
