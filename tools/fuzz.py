"""Hunt for a DSN, a setting or an order of events that breaks a promise."""

import argparse
import importlib.util
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random, SystemRandom
from typing import TextIO

ROOT = Path(__file__).parents[1]
KEPT = ROOT / ".fuzz"
PROPERTIES = "projects/monolith/tests/shared"
OWN_MUTATIONS = 0.3
END_SECONDS = 10


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    hunting = verbs.add_parser("hunt", help="fuzz the DSN parser and the properties, for a while")
    hunting.add_argument("--seconds", type=float, default=60)
    hunting.set_defaults(run=lambda given: hunt(given.seconds))
    judging = verbs.add_parser("dsns", help="judge generated DSNs by what asyncpg does")
    judging.add_argument("--count", type=int, default=1_000_000)
    judging.add_argument("--seed", type=int, default=1)
    judging.set_defaults(run=lambda given: judge_many(given.count, given.seed))
    parsing = verbs.add_parser("parser", help="drive the DSN parser with atheris")
    parsing.add_argument("options", nargs="*")
    parsing.set_defaults(run=lambda given: drive_parser(given.options))
    given, rest = parser.parse_known_args()
    if rest and "options" not in given:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        given.options += rest
    return int(given.run(given))


def hunt(seconds: float) -> int:
    """Fuzz for so many seconds, half of them with atheris where there is one."""
    KEPT.mkdir(exist_ok=True)
    began, code = time.monotonic(), 0
    try:
        if importlib.util.find_spec("atheris"):
            code = hunt_with_atheris(seconds / 2)
        else:
            say("atheris is not installed here: hypothesis alone has all the time")
        code |= hunt_with_hypothesis(began + seconds)
    except KeyboardInterrupt:
        say("stopped")
    say("found something, see above" if code else "nothing found")
    return code


def hunt_with_atheris(seconds: float) -> int:
    """Drive the DSN parser, coverage-guided; a DSN that breaks a promise is kept in a file."""
    corpus = KEPT / "corpus"
    corpus.mkdir(exist_ok=True)
    command = [sys.executable, __file__, "parser", f"-max_total_time={max(1, round(seconds))}"]
    command += [f"-artifact_prefix={KEPT}/", "-print_final_stats=1", "-timeout=10", "-max_len=300"]
    with running([*command, str(corpus)]) as process:
        text = list(shown(process.stdout or ()))
    if process.returncode:
        sys.stdout.writelines(line for line in text if not line.startswith(("#", "stat::")))
        say(f"atheris: a DSN breaks a promise; it is kept in {KEPT}/, named above")
    return int(process.returncode != 0)


def shown(lines: Iterable[str]) -> Iterator[str]:
    """Pass lines of libFuzzer on, and show how far it is."""
    for line in lines:
        progress = re.match(r"#(\d+)\s+(?:pulse|DONE)\s+cov: (\d+).*?exec/s: (\d+)", line)
        if progress:
            count, covered, rate = (int(number) for number in progress.groups())
            say(f"atheris: {count:,} DSNs, {covered} branches, {rate:,} a second")
        yield line


def hunt_with_hypothesis(deadline: float) -> int:
    """Try the properties in rounds, each from a seed of its own; hypothesis keeps what fails."""
    total, rounds = 0, 0
    while (left := deadline - time.monotonic()) > 0:
        seed = SystemRandom().randrange(2**32)
        command = [sys.executable, "-m", "pytest", "-m", "hypothesis", "-n0", "-q", PROPERTIES]
        command += ["--hypothesis-profile=fuzz", f"--hypothesis-seed={seed}"]
        output, interrupted = KEPT / "hypothesis.log", False
        with output.open("w") as log, running([*command, "--hypothesis-show-statistics"], log) as p:
            try:
                p.wait(left)
            except subprocess.TimeoutExpired:
                interrupted = True
        said = output.read_text()
        total += sum(map(int, re.findall(r"- (\d+) passing, ", said)))
        rounds += 1
        say(f"hypothesis: {total:,} examples in {rounds} round{'s' if rounds > 1 else ''}")
        if " failed" in said or (p.returncode and not interrupted):
            sys.stdout.write(said[said.find("= FAILURES") :])
            say(f"hypothesis: a property fails; the example is kept in {ROOT}/.hypothesis/,")
            say("and `make test` tries it first")
            return 1
    return 0


@contextmanager
def running(
    command: list[str], output: int | TextIO = subprocess.PIPE
) -> Iterator[subprocess.Popen[str]]:
    """Run a command of ours; what still runs at the end is ended as by Ctrl-C, or more firmly."""
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:  # in the background nobody hears SIGINT
            process.terminate()
            process.wait()


def judge_many(count: int, seed: int) -> int:
    """Judge generated DSNs by what asyncpg does, and print how many came to which end."""
    from tests.dsns import Judge, generate, mislead

    random, ends, distinct = Random(seed), Counter[str](), set[int]()
    with tempfile.TemporaryDirectory() as home:
        mislead(Path(home))
        with closing(Judge(Path(home))) as judge:
            for number in range(1, count + 1):
                dsn = generate(random)
                distinct.add(hash(dsn))
                try:
                    ends[judge.judge(dsn, random)] += 1
                except Exception as error:  # noqa: BLE001  whatever it is, it is a finding
                    ends["counterexamples"] += 1
                    say(f"counterexample: {dsn!r}: {type(error).__name__}: {error}")
                if number % 100_000 == 0:
                    say(f"{number:,} judged, {ends['counterexamples']} counterexamples")
    say(
        f"seed {seed}: {ends.total():,} DSNs, {len(distinct):,} of them distinct: "
        f"{ends['refused']:,} refused, {ends['elsewhere']:,} understood and refused for where "
        f"they lead, {ends['accepted']:,} accepted, {ends['counterexamples']:,} counterexamples"
    )
    return int(ends["counterexamples"] > 0)


def drive_parser(options: list[str]) -> int:
    """Hand the judge over to libFuzzer, with mutations by grammar among its own."""
    import atheris

    atheris.enabled_hooks.add("RegEx")
    with atheris.instrument_imports(include=["shared.dsn", "shared.identity"]):
        from tests.dsns import Judge, generate, mislead, twist

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        random, dsn = Random(seed), data.decode(errors="surrogateescape")
        if random.random() < OWN_MUTATIONS:
            return atheris.Mutate(data, most)
        mutated = twist(dsn, random) if len(dsn) > 1 else generate(random)
        return mutated.encode(errors="surrogateescape")[:most]

    with tempfile.TemporaryDirectory() as home:
        mislead(Path(home))
        judge = Judge(Path(home))

        def judge_one(data: bytes) -> None:
            judge.judge(data.decode(errors="surrogateescape"), Random(len(data)))

        atheris.Setup([sys.argv[0], *options], judge_one, custom_mutator=mutate)
        atheris.Fuzz()
    return 0


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
