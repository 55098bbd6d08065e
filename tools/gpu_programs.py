"""The programs that gpu_check runs, wherever they come from, and how it runs them."""
import dataclasses
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tarfile


class Skipped(Exception):
    """The step cannot be run here, for a reason that is no fault."""


class Failed(Exception):
    """The step found a fault; `detail` is kept in the report."""

    def __init__(self, reason, detail=None):
        super().__init__(reason)
        self.detail = detail


@dataclasses.dataclass
class Result:
    code: int  # of the exit; None: the time was over
    out: str
    text: str  # standard output and error

    def tail(self, lines=6):
        return " | ".join(self.text.strip().splitlines()[-lines:])


def end_session(leader):
    """Kills what is left of a session: mpirun and its ranks are process groups of their own, and a rank that spins on
    the GPU would spoil all that is measured after it."""
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            session = int((folder / "stat").read_text().rpartition(")")[2].split()[3])
            if session == leader:
                os.kill(int(folder.name), signal.SIGKILL)
        except (OSError, ValueError, IndexError):
            pass  # it is gone


def end_session(leader):
    """Kills what is left of a session: ranks and tests' own children have process groups of their own."""
    for entry in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(entry.read_text().rsplit(")", 1)[1].split()[3]) == leader:
                os.kill(int(entry.parent.name), signal.SIGKILL)
        except OSError:  # it has ended by itself
            pass


def run(command, seconds, environment=None):
    """Runs a command in a session of its own, all of which ends with it, or when the time is over."""
    environment = {**os.environ, **(environment or {})}
    try:
        process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True, errors="replace", env=environment,
                                   start_new_session=True)
    except OSError as error:
        return Result(127, "", f"{command[0]}: {error.strerror}")
    try:
        out, err = process.communicate(timeout=seconds)
        code = process.returncode
        end_session(process.pid)
    except subprocess.TimeoutExpired:
        end_session(process.pid)
        out, err = process.communicate()
        code = None
    return Result(code, out, out + err)


@dataclasses.dataclass
class Programs:
    polystrate: pathlib.Path
    mpirun: list
    tests: list
    prefix: list  # before a test, so that it finds the libraries and Open MPI of a package
    source: pathlib.Path  # of models/demo
    environment: dict

    def describe(self):
        return {"polystrate": str(self.polystrate), "tests": [test.name for test in self.tests]}

    def ranks(self, count, arguments, prefix=()):
        """The command line of polystrate on so many ranks; `prefix` starts each."""
        command = [*prefix, self.polystrate, *arguments]
        return command if count == 1 else [*self.mpirun, "-np", str(count), *command]


MPIRUN_FLAGS = ["--oversubscribe", "--bind-to", "none"]
ENVIRONMENT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "GOMP_SPINCOUNT": "1000"}


def of_package(folder):
    return Programs(polystrate=folder / "bin" / "polystrate", mpirun=[folder / "bin" / "mpirun", *MPIRUN_FLAGS],
                    tests=sorted((folder / "libexec" / "tests").glob("*_test")),
                    prefix=[folder / "bin" / "polystrate-env"], source=folder / "share" / "polystrate",
                    environment={**ENVIRONMENT, **cuda_libraries(folder / "libexec" / "polystrate"),
                                 "POLYSTRATE_SOURCE_DIR": str(folder / "share" / "polystrate"),
                                 "POLYSTRATE_PROGRAM_DIR": str(folder / "libexec")})


def of_build(folder, root, suffix=""):
    """`suffix`: _emulated, for the programs whose GPU is the emulator."""
    tests = sorted((folder / "tests").glob(f"*_test{suffix}"))
    return Programs(polystrate=folder / f"polystrate{suffix}", mpirun=["mpirun", *MPIRUN_FLAGS], tests=tests,
                    prefix=[], source=root, environment=ENVIRONMENT)


def cuda_libraries(program):
    """Where CUDA came as Python packages the loader does not look for it; nothing if it finds all."""
    if "not found" not in run(["ldd", program], 20).out:
        return {}
    folders = [str(lib) for site in site_packages() for lib in sorted(pathlib.Path(site).glob("nvidia/*/lib"))]
    return {"LD_LIBRARY_PATH": ":".join(folders + [os.environ.get("LD_LIBRARY_PATH", "")]).rstrip(":")}


def site_packages():
    python = shutil.which("python3") or sys.executable
    return run([python, "-c", "import sys; print('\\n'.join(p for p in sys.path if 'packages' in p))"], 20).out.split()


def build(root, seconds):
    nvcc = shutil.which("nvcc", path=os.environ.get("PATH", "") + ":/usr/local/cuda/bin")
    if nvcc is None or shutil.which("cmake") is None:
        raise Failed("no --package, no --programs, no build/cuda, and no nvcc and cmake to build it with")
    environment = {"CCACHE_BASEDIR": str(root), "CCACHE_NOHASHDIR": "1"}
    for command in (["cmake", "--preset", "cuda", "-S", root],
                    ["cmake", "--build", root / "build" / "cuda", "--target", "polystrate", "packaged_tests"]):
        built = run(command, seconds, environment)
        if built.code != 0:
            raise Failed(f"{' '.join(str(word) for word in command)}: {built.tail()}")


def find(arguments, scratch, root, seconds):
    if arguments.emulated:
        programs = of_build(pathlib.Path(arguments.emulated).resolve(), root, "_emulated")
    elif arguments.package:
        with tarfile.open(arguments.package) as archive:
            archive.extractall(scratch)
        programs = of_package(scratch / "polystrate")
    elif arguments.programs:
        folder = pathlib.Path(arguments.programs).resolve()
        programs = of_package(folder) if (folder / "libexec").is_dir() else of_build(folder, root)
    elif (root.parent.parent / "libexec" / "polystrate").is_file():  # this script lies in a package
        programs = of_package(root.parent.parent)
    else:
        build(root, seconds)
        programs = of_build(root / "build" / "cuda", root)
    started = run([programs.polystrate, "--help"], 30, programs.environment)
    if started.code != 0:
        raise Failed(f"{programs.polystrate} does not start: {started.tail()}")
    return programs
