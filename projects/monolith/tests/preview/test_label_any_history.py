import tempfile
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.fake_github import BOT, REPOSITORY, FakeGitHub
from tests.labelling import Labelling

MINE = "projects/monolith/app/main.py"
numbers = st.integers(1, 7)


class AnyHistory(RuleBasedStateMachine):
    """
    People, bots, builds and time do what they like, and the command runs in between.

    What must hold after a run is said by the model here, which remembers who did what; it asks
    the rules nothing.
    """

    @initialize()
    def begin(self):
        """A GitHub without pull requests, and a proof about Access."""
        self.stack = ExitStack()
        self.server = self.stack.enter_context(FakeGitHub().running())
        directory = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.label = Labelling(self.server, directory)
        self.wishes = {}
        self.foreign = set()
        self.fresh = False

    def teardown(self):
        """Whatever happened, whoever may have a place gets one once there are enough."""
        if not hasattr(self, "stack"):
            return
        try:
            self.nobody_starves()
        finally:
            self.stack.close()

    @rule(
        number=numbers,
        author=st.sampled_from(["ada", "renovate[bot]"]),
        repository=st.sampled_from([REPOSITORY, REPOSITORY, "eve/monolith", None]),
        base=st.sampled_from(["main", "main", "release"]),
        draft=st.booleans(),
        files=st.sampled_from([(MINE,), (MINE,), ("docs/README.md",)]),
    )
    def open(self, number, **how):
        """Somebody opens a pull request."""
        if number not in self.server.pulls:
            self.server.open(number, **how)
            if how["repository"] != REPOSITORY or how["base"] != "main":
                self.foreign.add(number)
            self.fresh = False

    @rule(number=numbers)
    def push(self, number):
        """Somebody pushes."""
        if number in self.server.pulls:
            self.server.push(number)
            self.fresh = False

    @rule(number=numbers, conclusion=st.sampled_from(["success", "success", "failure", None]))
    def build(self, number, conclusion):
        """The job that makes the image says what became of it."""
        if number in self.server.pulls:
            self.server.build(number, conclusion)
            self.fresh = False

    @rule(number=numbers, opens=st.booleans())
    def close(self, number, opens):
        """Somebody closes or reopens."""
        if number in self.server.pulls:
            is_open = self.server.pulls[number]["state"] == "open"
            if is_open is not opens:
                (self.server.reopen if opens else self.server.close)(number)
            self.fresh = False

    @rule(number=numbers, draft=st.booleans())
    def draft(self, number, draft):
        """Somebody turns it into a draft, or back."""
        if number in self.server.pulls and self.server.pulls[number]["draft"] is not draft:
            self.server.draft(number, draft=draft)
            self.fresh = False

    @rule(
        number=numbers,
        on=st.booleans(),
        actor=st.sampled_from(["ada", "grace", "labels[bot]"]),
        name=st.sampled_from(["preview", "preview", "preview-keep"]),
    )
    def wish(self, number, on, actor, name):
        """Somebody puts a label on, or takes it off."""
        if number not in self.server.pulls or on is (name in self.server.labelled(number)):
            return
        (self.server.label if on else self.server.unlabel)(number, name, actor)
        if name == "preview":
            self.wishes[number] = on
        self.fresh = False

    @rule(verdict=st.sampled_from(["PROTECTED", "PROTECTED", "EXPOSED", "INCONCLUSIVE", None]))
    def find(self, verdict):
        """The next reports about Access say something else."""
        self.label.verdict = verdict
        self.fresh = False

    @rule(minutes=st.sampled_from([0, 29, 31]))
    def grow_old(self, minutes):
        """The next reports are older."""
        self.label.age = timedelta(minutes=minutes)
        self.fresh = False

    @rule(hours=st.sampled_from([1, 30, 80]))
    def pass_time(self, hours):
        """Time passes."""
        self.server.pass_time(hours=hours)
        self.fresh = False

    @rule(writes=st.integers(0, 6))
    def run_cut_off(self, writes):
        """A run breaks in the middle of its writes."""
        self.server.breaks_after = len(self.server.writes) + writes
        before = self.server.previews()
        try:
            self.label.run(code=None)
        finally:
            self.server.breaks_after = None
        assert len(self.server.previews()) <= max(3, len(before))
        self.fresh = False

    @rule()
    def run(self):
        """A run."""
        before = self.server.previews()
        self.label.run()
        self.proves_nothing_new(before)
        self.fresh = True

    def proves_nothing_new(self, before):
        """Hold what Access demands of one run."""
        label = self.label
        if label.verdict == "EXPOSED":
            assert self.server.previews() == set()
        if label.verdict != "PROTECTED" or label.age > timedelta(minutes=30):
            assert self.server.previews() <= before

    @invariant()
    @precondition(lambda self: self.fresh)
    def never_more_than_three(self):
        """After a run at most three have the label."""
        assert len(self.server.previews()) <= 3

    @invariant()
    @precondition(lambda self: self.fresh)
    def never_a_fork(self):
        """After a run no fork has it, and nothing for another branch."""
        assert not self.server.previews() & self.foreign

    @invariant()
    @precondition(lambda self: self.fresh)
    def never_against_a_wish(self):
        """After a run nobody has it who does not want it, and we never gave it them."""
        assert not {n for n in self.server.previews() if self.wishes.get(n) is False}

    @invariant()
    @precondition(lambda self: self.fresh)
    def one_comment_each(self):
        """Nobody has two comments, and nobody is told of a place that is not theirs."""
        for number, said in self.server.comments.items():
            ours = [one["body"] for one in said if one["user"]["login"] == BOT]
            assert len(ours) <= 1
            if ours and self.server.pulls[number]["state"] == "open":
                assert ("| where |" in ours[0]) is (number in self.server.previews())

    @invariant()
    @precondition(lambda self: self.fresh)
    def one_deployment_each(self):
        """The deployments are those of the previews that exist, of their heads."""
        deployed = [made["sha"] for made in self.server.deployments.values()]
        heads = [self.server.pulls[number]["head"]["sha"] for number in self.server.previews()]
        assert sorted(deployed) == sorted(heads)

    def nobody_starves(self):
        """Whoever may have a place and waits gets one, as others close, one after the other."""
        self.label.verdict, self.label.age = "PROTECTED", timedelta(0)
        waiting = self.entitled()
        for number in waiting:
            self.server.push(number)
            self.server.build(number)
        served = set()
        for _ in range(len(self.server.pulls) + 1):
            self.label.run()
            assert self.server.previews() <= waiting
            served |= self.server.previews()
            for number in self.server.previews():
                self.server.close(number)
        assert served == waiting

    def entitled(self):
        """Number the open pull requests that may have a place, by the words of the rules."""
        return {
            number
            for number, pull in self.server.pulls.items()
            if pull["state"] == "open"
            and number not in self.foreign
            and self.wishes.get(number) is not False
            and (
                self.wishes.get(number)
                or (
                    not pull["draft"]
                    and pull["user"]["type"] == "User"
                    and self.server.files[number][0]["filename"] == MINE
                )
            )
        }


TestAnyHistory = AnyHistory.TestCase
TestAnyHistory.settings = settings(deadline=None, max_examples=25, stateful_step_count=30)
