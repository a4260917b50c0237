"""The command line: one function per subcommand; each imports what it needs when it runs."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from verlock import __version__, console
from verlock.errors import VerlockError, of_system
from verlock.smoke import sabotage

if TYPE_CHECKING:
    from typing import TypeAlias

    Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

BASES = ("auto", "conda", "host")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code: 0, 1 for a bug, 2 for a wrong command line, else a code from verlock.errors."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if getattr(arguments, "base", "auto") not in BASES:  # argparse does not check a default against the choices
        parser.error(f"VERLOCK_BASE is {arguments.base!r}: it must be one of {', '.join(BASES)}")
    console.set_quiet(getattr(arguments, "quiet", False))
    try:
        code: int = arguments.run(arguments)
    except VerlockError as error:
        from verlock.system import addresses

        print(f"verlock: {addresses.scrubbed(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as interrupt:
        print("verlock: interrupted; finished steps are kept, and the next run continues from there", file=sys.stderr)
        return 128 + (interrupt.args[0] if interrupt.args else signal.SIGINT)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        refused = of_system(error)
        if refused is None:
            raise
        print(f"verlock: {refused}", file=sys.stderr)
        return refused.exit_code
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="verlock", description="Locked, verified and GPU-proven environments for verl and vLLM"
    )
    parser.add_argument("--version", action="version", version=f"verlock {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _environment_commands(commands)
    _use_commands(commands)
    _proof_commands(commands)
    _lock_commands(commands)
    _shipping_commands(commands)
    return parser


def _environment_commands(commands: Commands) -> None:
    create = commands.add_parser(
        "create", help="make a variant's environment from its lock, unless it is already there"
    )
    create.add_argument("variant")
    create.add_argument("--python", metavar="X.Y", help="a Python other than the variant's first")
    create.add_argument("--base", choices=BASES, default=os.environ.get("VERLOCK_BASE") or "auto",
                        help="conda: the locked conda layer; host: this machine's CPython; "
                             "auto (default): conda if it is available, else host")  # fmt: skip
    create.add_argument("--strict", action="store_true", help="fail if an optional artefact is not available")
    create.add_argument("--editable", action="append", choices=("verl", "vllm", "none"),
                        help="install this package from a git checkout of its release beside the environment, for you to edit; "
                             "without this option, what is editable stays so; `none`: nothing is")  # fmt: skip
    _site_wheel(create)
    create.add_argument(
        "--from",
        dest="bundle",
        type=Path,
        metavar="DIR",
        help="take the files from a bundle (`nox -s bundle` makes one)",
    )
    create.add_argument("--offline", action="store_true", help="with --from: ask no host for what the bundle lacks")
    create.add_argument("--quiet", action="store_true", help="print only warnings and errors")
    create.set_defaults(run=_create)

    verify = commands.add_parser("verify", help="compare every installed file with its lock",
                                 description="Compare every file of an environment with its lock. What is outside its folder "
                                             "is not seen: the system's libraries, the driver, the host's standard library, "
                                             "and what PYTHONPATH and the like name. docs/verify.md says more.")  # fmt: skip
    _variant(verify)
    verify.add_argument("--strict", action="store_true", help="a missing optional artefact is an error too")
    verify.add_argument("--json", action="store_true", help="print all differences as JSON")
    verify.set_defaults(run=_verify)

    patches = commands.add_parser("patches", help="show a variant's patches, why they are needed, and their state")
    _variant(patches)
    patches.set_defaults(run=_patches)

    _build_command(commands)

    listing = commands.add_parser("list", help="list the variants and what is built")
    listing.set_defaults(run=_list)


def _build_command(commands: Commands) -> None:
    build = commands.add_parser(
        "build-flash-attn",
        help="build flash-attn from its locked sdist, where no released wheel fits; needs a CUDA compiler",
    )
    _variant(build)
    build.add_argument("--arch", nargs="+", default=[], metavar="X.Y",
                       help="compute capabilities to build for, such as 9.0 (default: those of this machine's GPUs)")  # fmt: skip
    build.add_argument(
        "--head-dim", nargs="+", type=int, default=[], metavar="N", help="only kernels of these head sizes"
    )
    build.add_argument("--dtype", nargs="+", default=[], metavar="TYPE", help="only kernels of these types: fp16, bf16")
    build.add_argument(
        "--jobs", type=int, default=0, metavar="N", help="kernels compiled at once (default: by cores and memory)"
    )
    build.set_defaults(run=_build_flash_attn)


def _use_commands(commands: Commands) -> None:
    run = commands.add_parser(
        "run",
        help="run a command inside an environment",
        usage="verlock run VARIANT [OPTION...] [--] COMMAND [ARGUMENT...]",
    )
    _run_options(run)
    _variant(run)
    run.add_argument("command", nargs=argparse.REMAINDER, help="the program, and its arguments")
    run.set_defaults(run=_run)

    doctor = commands.add_parser("doctor", help="look for what stands in the way on this machine, and say what to do")
    doctor.add_argument("variant", nargs="?", help="all when none is named")
    doctor.add_argument("--python", metavar="X.Y", help="a Python other than the variant's first")
    doctor.add_argument(
        "--deep", action="store_true", help="also start what is installed: imports, NCCL, Ray; takes a minute"
    )
    doctor.add_argument("--json", action="store_true", help="print JSON")
    doctor.set_defaults(run=_doctor)

    shell = commands.add_parser("shell", help="begin a bash inside an environment")
    _variant(shell)
    _chdir(shell)
    shell.set_defaults(run=_shell)


def _run_options(run: argparse.ArgumentParser) -> None:
    shows = run.add_mutually_exclusive_group()
    shows.add_argument("--print-env", action="store_true", help="print the changes of variables as lines for a shell")
    shows.add_argument(
        "--py-executable", action="store_true", help="print what Ray's runtime_env takes as py_executable"
    )
    shows.add_argument("--flags", action="store_true", help="print the flags that verl needs with this variant")
    shows.add_argument(
        "--ray-check", type=_address, metavar="HOST:PORT", help="can every node of that Ray work in the environment?"
    )
    _chdir(run)
    sbatch = run.add_argument_group("a script for Slurm")
    sbatch.add_argument("--sbatch", action="store_true", help="print a script that runs the command on several nodes")
    sbatch.add_argument("--nodes", type=_count, default=1, metavar="N", help="nodes (default: 1)")
    sbatch.add_argument(
        "--gpus-per-node", type=_count, default=8, metavar="N", help="GPUs a node, and ranks (default: 8)"
    )
    sbatch.add_argument(
        "--ray", action="store_true", help="start Ray on the nodes, and the command once; else torchrun on each"
    )


def _chdir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--chdir", metavar="DIR", help="start there (default: here)")


def _proof_commands(commands: Commands) -> None:
    smoke = commands.add_parser("smoke", help="prove FSDP training with vLLM rollout on this machine's GPUs")
    _variant(smoke)
    smoke.add_argument("--ranks", type=_count, default=0, metavar="N",
                       help="run N ranks; if there are fewer GPUs, ranks share them (default: one rank, then two)")  # fmt: skip
    smoke.add_argument("--mode", choices=("eager", "graphs", "verl"), default="",
                       help="only this engine mode, or only verl's own steps")  # fmt: skip
    smoke.add_argument("--tp", type=_count, default=0, metavar="N", help="only this tensor-parallel size")
    smoke.add_argument(
        "--sabotage",
        default="",
        metavar="MODE",
        choices=(sabotage.ALL, *sabotage.MODES),
        help="break one thing on purpose; `all` for each in turn",
    )
    smoke.add_argument(
        "--again", action="store_true", help="make every launch twice: does a seed give the same in another process?"
    )
    smoke.add_argument("--unpatched", nargs="?", const=sabotage.ALL, default="", metavar="PATCH",
                       help="run without the patches, or the one whose file name begins so: what are they for?")  # fmt: skip
    smoke.add_argument("--no-verl", action="store_true", help="skip verl's own GRPO steps")
    smoke.add_argument("--model", type=Path, metavar="PATH",
                       help="run with a model of your own, a Hugging Face folder, as far as the gates can; writes a report, "
                            "never a certificate")  # fmt: skip
    _nodes(smoke)
    _site_wheel(smoke)
    smoke.add_argument("--json", type=Path, metavar="FILE", help="write the whole report to FILE")
    smoke.set_defaults(run=_smoke)

    _bench_command(commands)

    status = commands.add_parser("status", help="show what is proven for each variant, and on which GPUs")
    status.add_argument("--markdown", action="store_true", help="print the README's table")
    status.add_argument("--readme", action="store_true", help="update the README's table")
    status.set_defaults(run=_status)


def _nodes(smoke: argparse.ArgumentParser) -> None:
    nodes = smoke.add_argument_group(
        "a run that spans machines: start it on each of them, with a --node-rank of its own"
    )
    nodes.add_argument("--nnodes", type=_count, default=0, metavar="N", help="how many machines")
    nodes.add_argument(
        "--node-rank", type=int, metavar="K", help="which of them this is, from 0; node 0 writes the report"
    )
    nodes.add_argument(
        "--rendezvous", type=_host_and_port, metavar="HOST:PORT", help="node 0's address and a free port of it"
    )


def _bench_command(commands: Commands) -> None:
    bench = commands.add_parser(
        "bench-rollout",
        help="measure rollouts on this machine's GPU, beside what the card can do; goes on where it was cut off",
    )
    bench.add_argument("variants", nargs="*", metavar="VARIANT", help="all that are built when none is named")
    bench.add_argument("--python", metavar="X.Y", help="a Python other than the variant's first")
    bench.add_argument("--shape", nargs="+", default=[], metavar="SHAPE", help="only models of these shapes")
    bench.add_argument("--job", nargs="+", default=[], metavar="JOB",
                       help="only these jobs, on every shape (default: each on the shapes it is for)")  # fmt: skip
    bench.add_argument("--mode", nargs="+", default=[], choices=("eager", "graphs"), help="only these engine modes")
    bench.add_argument("--iterations", type=_count, default=0, metavar="N",
                       help="of each cell, all rounds together (default: 5 for 7b, 10 for 1.5b, 20 for 0.5b)")  # fmt: skip
    bench.add_argument("--rounds", type=_count, default=2, metavar="N",
                       help="start every engine N times, in turn (default: 2)")  # fmt: skip
    bench.add_argument("--minutes", type=float, default=0.0, metavar="M", help="start nothing that would end later")
    bench.add_argument("--again", action="store_true", help="measure again what was measured")
    bench.add_argument("--draw", action="store_true", help="only write tables and plots of all results; needs no GPU")
    bench.set_defaults(run=_bench)


def _lock_commands(commands: Commands) -> None:
    lock = commands.add_parser("lock", help="make locks/ again from environments/ and recipes/")
    lock.add_argument("variants", nargs="*", metavar="VARIANT", help="all when none is named; `tools` is verlock's own")
    lock.add_argument("--check", action="store_true", help="only check whether the locks are current; works offline")
    lock.add_argument(
        "--upgrade", nargs="*", metavar="PACKAGE", help="let these packages change version; all when none is named"
    )
    lock.add_argument(
        "--cutoff", metavar="DATE", help="try another cut-off (or `none`): shows the diff, writes nothing"
    )
    lock.set_defaults(run=_lock)

    diff = commands.add_parser("diff", help="show what changed in locks/ between git revisions")
    diff.add_argument("revisions", nargs="*", metavar="REV", help="default: from HEAD to the working tree")
    diff.add_argument("--markdown", action="store_true", help="print Markdown, for CHANGELOG.md")
    diff.set_defaults(run=_diff)

    why = commands.add_parser("why", help="show who asks for a package, with which bounds, and why it is not newer")
    why.add_argument("variant")
    why.add_argument("package")
    why.add_argument("--python", metavar="X.Y", help="a Python other than the variant's first")
    why.set_defaults(run=_why)

    find = commands.add_parser("find", help="find the variant that is nearest to a paper's stack, or to a version")
    find.add_argument(
        "words", nargs="+", metavar="NAME-OR-VERSION", help="such as `dapo`, `vllm 0.8.2` or `transformers 4.51`"
    )
    find.set_defaults(run=_find)

    compare = commands.add_parser("compare", help="show two variants side by side: packages, and what was measured")
    compare.add_argument("one", metavar="VARIANT", help="the first, in the left column")
    compare.add_argument("two", metavar="VARIANT", help="the second, in the right one")
    compare.set_defaults(run=_compare)

    schema = commands.add_parser("schema", help="write recipes/schema.json from the recipe model")
    schema.set_defaults(run=_schema)


def _shipping_commands(commands: Commands) -> None:
    export = commands.add_parser("export", help="write a lock in a form that other tools read")
    _variant(export)
    export.add_argument("--to", required=True, choices=("pylock", "requirements", "conda-lock", "rattler"),
                        help="pylock.toml (PEP 751), requirements.txt for pip alone, conda-lock.yml with both layers, "
                             "or the conda layer as rattler's lock file")  # fmt: skip
    _output(export)
    export.add_argument("--from", dest="bundle", type=Path, metavar="DIR",
                        help="with --to pylock and --output: name the files of a bundle, by their paths")  # fmt: skip
    export.set_defaults(run=_export)

    sbom = commands.add_parser("sbom", help="list what is in a verified environment, as CycloneDX 1.6")
    _variant(sbom)
    _output(sbom)
    sbom.set_defaults(run=_sbom)

    audit = commands.add_parser("audit", help="look for known vulnerabilities in what is locked")
    _variant(audit)
    audit.add_argument("--advisories", type=Path, metavar="FILE",
                       help="OSV advisories (JSON, or a zip of such), where the OSV service cannot be reached")  # fmt: skip
    audit.set_defaults(run=_audit)

    _bundle_command(commands)


def _bundle_command(commands: Commands) -> None:
    bundle = commands.add_parser(
        "bundle", help="put all that variants are made of into a folder, for where no network is"
    )
    bundle.add_argument("variants", nargs="*", metavar="VARIANT")
    bundle.add_argument(
        "--to", type=Path, metavar="DIR", help="the bundle's folder; one that is there is brought up to date"
    )
    bundle.add_argument("--python", metavar="X.Y", help="a Python other than the variants' first")
    bundle.add_argument("--base", choices=BASES, default=os.environ.get("VERLOCK_BASE") or "auto",
                        help="conda: the conda layer's packages; host: this machine's CPython; "
                             "auto (default): conda if it is available, else host")  # fmt: skip
    bundle.add_argument("--tools-for", nargs="+", metavar="X.Y", default=[],
                        help="the Pythons that will start the bundle (default: the one that runs this)")  # fmt: skip
    bundle.add_argument("--part-size", metavar="SIZE", help="cut the bundle into files of at most SIZE, such as 4GiB")
    bundle.add_argument("--strict", action="store_true", help="fail if an optional artefact is not available")
    _site_wheel(bundle)
    bundle.add_argument("--verify", type=Path, metavar="DIR", help="only compare a bundle with its manifest")
    bundle.add_argument("--prune", action="store_true", help="only drop from the wheel store what no lock names")
    bundle.set_defaults(run=_bundle)

    relocate = commands.add_parser(
        "relocate", help="pack a built environment into one archive, to be unpacked anywhere"
    )
    _variant(relocate)
    relocate.add_argument("--to", type=Path, required=True, metavar="TAR", help="the archive")
    relocate.set_defaults(run=_relocate)


def _output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, metavar="FILE", help="write to FILE instead of standard output")


def _variant(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("variant")
    parser.add_argument("--python", metavar="X.Y", help="a Python other than the variant's first")


def _count(text: str) -> int:
    """A number of ranks, of at least one."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"it must be a number from 1 on, not {text!r}")
    return int(text)


def _host_and_port(text: str) -> tuple[str, int]:
    """HOST:PORT; an IPv6 address stands in brackets."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise argparse.ArgumentTypeError(f"it must be HOST:PORT, such as node0:29500, not {text!r}")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _address(text: str) -> str:
    """HOST:PORT, as it was written."""
    _host_and_port(text)
    return text


def _site_wheel(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--site-wheel",
        action="append",
        metavar="PACKAGE=FILE",
        help="install your own wheel FILE instead of the locked PACKAGE; may be given once per package; `none`: use no site "
        "wheels; without this option, the environment keeps the site wheels it has",
    )


def _asked_site_wheels(arguments: argparse.Namespace) -> dict[str, Path] | None:
    """The site wheels named by `--site-wheel`, else by VERLOCK_SITE_WHEELS; None if neither is given."""
    given = os.environ.get("VERLOCK_SITE_WHEELS", "")
    if not arguments.site_wheel and not given:
        return None  # without the import below: most runs need none of it
    from verlock.env import site_wheels

    return site_wheels.asked(arguments.site_wheel, given)


def _create(arguments: argparse.Namespace) -> int:
    from verlock.env import create

    editable = None if arguments.editable is None else {*arguments.editable}
    if editable and "none" in editable and len(editable) > 1:
        print("verlock create: `--editable none` stands alone", file=sys.stderr)
        return 2
    if arguments.bundle:
        _from_bundle(arguments)
    elif arguments.offline:
        print("verlock create: --offline goes with --from DIR", file=sys.stderr)
        return 2
    options = create.Options(
        base=arguments.base,
        strict=arguments.strict,
        editable=None if editable is None else tuple(sorted(editable - {"none"})),
        site_wheels=_asked_site_wheels(arguments),
    )
    return create.run(arguments.variant, options, arguments.python)


def _from_bundle(arguments: argparse.Namespace) -> None:
    """Let what the bundle decides stand in for what the user did not say."""
    from verlock.env import bundled

    taken = bundled.use(arguments.bundle, arguments.variant, arguments.python, offline=arguments.offline)
    arguments.python = taken.python
    if arguments.base == "auto":
        arguments.base = taken.base
    if taken.site_wheels and not arguments.site_wheel:
        arguments.site_wheel = [f"{package}={path}" for package, path in sorted(taken.site_wheels.items())]


def _verify(arguments: argparse.Namespace) -> int:
    from verlock.env import python_choice, verify

    chosen = python_choice.built(arguments.variant, arguments.python)
    return verify.run(chosen, as_json=arguments.json, strict=arguments.strict)


def _run(arguments: argparse.Namespace) -> int:
    from verlock.env import python_choice
    from verlock.shipping import launch

    arguments = _with_later_options(arguments)
    chosen = python_choice.built(arguments.variant, arguments.python)
    if arguments.print_env:
        print(launch.changes(chosen), end="")
    elif arguments.py_executable:
        print(launch.py_executable(chosen))
    elif arguments.ray_check:
        from verlock.shipping import ray

        return ray.check(chosen, arguments.ray_check)
    elif arguments.flags:
        print("\n".join(launch.flags(chosen, arguments.nodes, arguments.gpus_per_node)))
    elif arguments.sbatch:
        from verlock.shipping import slurm

        job = slurm.Job(arguments.nodes, arguments.gpus_per_node, arguments.chdir or str(Path.cwd()), arguments.ray)
        print(slurm.script(chosen, job, arguments.command), end="")
    else:
        return launch.run(chosen, arguments.command, arguments.chdir)
    return 0


def _with_later_options(arguments: argparse.Namespace) -> argparse.Namespace:
    """The line of `run` with the options that stand behind the variant, which argparse takes for the command's."""
    later = argparse.ArgumentParser(prog="verlock run", add_help=False)
    _run_options(later)
    later.add_argument("--python")
    later.add_argument("command", nargs=argparse.REMAINDER)
    words = arguments.command
    if words and words[0].startswith("-") and words[0] != "--":
        del arguments.command
        arguments = later.parse_args(words, arguments)
    if arguments.command[:1] == ["--"]:
        del arguments.command[0]
    shows = arguments.print_env or arguments.py_executable or arguments.flags or arguments.ray_check
    if bool(arguments.command) == bool(shows):
        later.error("it takes a command to run, or one of --print-env, --py-executable, --flags and --ray-check")
    return arguments


def _doctor(arguments: argparse.Namespace) -> int:
    from verlock.env.doctor import report

    if not arguments.variant and (arguments.deep or arguments.python):
        print("verlock doctor: --deep and --python are about one variant: name it", file=sys.stderr)
        return 2
    return report.run(arguments.variant, arguments.python, deep=arguments.deep, json=arguments.json)


def _shell(arguments: argparse.Namespace) -> int:
    from verlock.env import python_choice
    from verlock.shipping import launch

    launch.shell(python_choice.built(arguments.variant, arguments.python), arguments.chdir)


def _build_flash_attn(arguments: argparse.Namespace) -> int:
    from verlock.env import flash_attn_build, python_choice

    options = flash_attn_build.Options(arguments.arch, arguments.head_dim, arguments.dtype, arguments.jobs)
    return flash_attn_build.run(python_choice.built(arguments.variant, arguments.python), options)


def _patches(arguments: argparse.Namespace) -> int:
    from verlock.env import python_choice
    from verlock.sources import patches

    return patches.show(python_choice.built(arguments.variant, arguments.python))


def _smoke(arguments: argparse.Namespace) -> int:
    if problem := _contradiction(arguments):
        print(f"verlock smoke: {problem}", file=sys.stderr)
        return 2
    from verlock.env import create, python_choice
    from verlock.proving import own_model, smoke_run
    from verlock.proving.nodes import Place
    from verlock.proving.smoke_options import Options

    place = Place(arguments.nnodes, arguments.node_rank, *arguments.rendezvous) if arguments.nnodes else None
    model = own_model.at(arguments.model) if arguments.model else None
    chosen = python_choice.to_prove(arguments.variant, arguments.python)
    smoke_run.needs(chosen)  # first, so that no environment of 7 GB is made for nothing
    create.make(chosen, create.Options(site_wheels=_asked_site_wheels(arguments)))
    options = Options(
        ranks=arguments.ranks,
        mode=arguments.mode,
        tp=arguments.tp,
        sabotage=arguments.sabotage,
        verl=not arguments.no_verl,
        again=arguments.again,
        unpatched=arguments.unpatched,
        model=model,
        json_path=arguments.json,
        place=place,
    )
    return smoke_run.run(chosen, options)


def _contradiction(arguments: argparse.Namespace) -> str:
    """Which options of `smoke` do not go together, in one sentence; empty where all do."""
    if arguments.model:
        others = {"--sabotage": arguments.sabotage, "--unpatched": arguments.unpatched}
        others["--mode verl"] = arguments.mode == "verl"
        if clash := [name for name, given in others.items() if given]:
            return f"--model does not go together with {clash[0]}, which is about the tiny model"
    place = (arguments.nnodes or None, arguments.node_rank, arguments.rendezvous)
    if all(each is None for each in place):
        return ""
    if None in place or arguments.nnodes < 2 or not 0 <= arguments.node_rank < arguments.nnodes:
        return (
            "--nnodes N, --node-rank K and --rendezvous HOST:PORT go together, with N from 2 on and K from 0 to N - 1"
        )
    if arguments.sabotage or arguments.mode == "verl":
        other = "--sabotage" if arguments.sabotage else "--mode verl"
        return f"--nnodes does not go together with {other}, which takes one machine"
    return ""


def _bench(arguments: argparse.Namespace) -> int:
    from verlock.proving import bench_run
    from verlock.proving.bench_plan import Options

    if arguments.draw:
        return bench_run.draw_again()
    options = Options(
        shapes=tuple(arguments.shape),
        jobs=tuple(arguments.job),
        modes=tuple(arguments.mode),
        iterations=arguments.iterations,
        rounds=arguments.rounds,
        minutes=arguments.minutes,
        again=arguments.again,
    )
    return bench_run.run(arguments.variants, arguments.python, options)


def _status(arguments: argparse.Namespace) -> int:
    from verlock.proving import status

    return status.show(markdown=arguments.markdown, write_readme=arguments.readme)


def _lock(arguments: argparse.Namespace) -> int:
    if arguments.check:
        from verlock.locking import staleness

        return staleness.check(arguments.variants)
    from verlock.locking import lock_writer

    return lock_writer.run(arguments.variants, upgrade=arguments.upgrade, cutoff=arguments.cutoff)


def _diff(arguments: argparse.Namespace) -> int:
    from verlock.locking import lock_diff

    return lock_diff.run(arguments.revisions, markdown=arguments.markdown)


def _why(arguments: argparse.Namespace) -> int:
    from verlock.locking import why

    return why.run(arguments.variant, arguments.package, python=arguments.python)


def _find(arguments: argparse.Namespace) -> int:
    from verlock.locking import find

    return find.run(arguments.words)


def _compare(arguments: argparse.Namespace) -> int:
    from verlock.proving import compare

    return compare.run(arguments.one, arguments.two)


def _export(arguments: argparse.Namespace) -> int:
    from verlock.shipping import exports
    from verlock.variant.chosen import choose

    if arguments.bundle and (arguments.to != "pylock" or not arguments.output):
        print("verlock export: --from goes with --to pylock, and with --output FILE", file=sys.stderr)
        return 2
    chosen = choose(arguments.variant, arguments.python)
    return exports.run(chosen, arguments.to, arguments.output, arguments.bundle)


def _sbom(arguments: argparse.Namespace) -> int:
    from verlock.env import python_choice
    from verlock.shipping import sbom

    return sbom.run(python_choice.built(arguments.variant, arguments.python), arguments.output)


def _audit(arguments: argparse.Namespace) -> int:
    from verlock.shipping import audit
    from verlock.variant.chosen import choose

    return audit.run(choose(arguments.variant, arguments.python), arguments.advisories)


def _bundle(arguments: argparse.Namespace) -> int:
    from verlock.shipping import bundle, bundle_contents

    if arguments.prune:
        return bundle.prune()
    if arguments.verify:
        return bundle.verify(arguments.verify)
    try:
        part_size = bundle.bytes_of(arguments.part_size) if arguments.part_size else 0
    except ValueError as error:
        print(f"verlock bundle: --part-size: it must be {error}", file=sys.stderr)
        return 2
    if not arguments.variants or not arguments.to:
        print("verlock bundle: name variants, and the folder with --to DIR", file=sys.stderr)
        return 2
    options = bundle_contents.Options(
        base=arguments.base,
        strict=arguments.strict,
        site_wheels=_asked_site_wheels(arguments),
        tools_for=arguments.tools_for or ["{}.{}".format(*sys.version_info)],
    )
    return bundle.run(arguments.variants, arguments.python, arguments.to, options, part_size)


def _relocate(arguments: argparse.Namespace) -> int:
    from verlock.env import python_choice
    from verlock.shipping import relocate

    return relocate.run(python_choice.built(arguments.variant, arguments.python), arguments.to)


def _list(arguments: argparse.Namespace) -> int:
    from verlock.errors import NotSealed
    from verlock.proving import status
    from verlock.variant import receipt
    from verlock.variant.chosen import choose

    for name in status.by_version():
        try:
            pythons = choose(name).pythons()
            summary = pythons[0].recipe.summary
        except VerlockError as error:
            print(f"{name:<10} broken: {error.problem.splitlines()[0]}")
            continue
        built = []
        for chosen in pythons:
            try:
                sealed = receipt.read(chosen.prefix)
                notes = [sealed["base"]["kind"], *(["incomplete"] if sealed["missing"] else [])]
                notes += [f"site wheel {package}" for package in sealed["site_wheels"]]
                notes += [f"editable {package}" for package in sealed["editable"]]
                built.append(f"{chosen.python} ({', '.join(notes)})")
            except NotSealed:
                continue
        print(f"{name:<10} {summary:<52} built: {', '.join(built) or 'no'}")
    return 0


def _schema(arguments: argparse.Namespace) -> int:
    from verlock.variant import recipe

    Path(recipe.SCHEMA).write_text(json.dumps(recipe.schema(), indent=2) + "\n", encoding="utf-8")
    return 0
