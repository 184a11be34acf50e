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
REPORTS: list[tuple[str | None, int]] = [("PROTECTED", 0)] * 6
REPORTS += [("PROTECTED", 29), ("PROTECTED", 31), ("EXPOSED", 0), ("INCONCLUSIVE", 0), (None, 0)]


class AnyHistory(RuleBasedStateMachine):
    """
    People, bots, builds and time do what they like, and the command runs in between.

    What must hold after a run is said by the model here, which remembers who did what; it asks
    the rules nothing.
    """

    @initialize(ready=st.integers(0, 5))
    def begin(self, ready):
        """A GitHub with a few pull requests whose images exist."""
        self.stack = ExitStack()
        self.server = self.stack.enter_context(FakeGitHub().running())
        directory = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.label = Labelling(self.server, directory)
        self.wishes = {}
        self.foreign = set()
        self.fresh = False
        for number in range(1, ready + 1):
            self.server.open(number)
            self.server.build(number)

    def teardown(self):
        """Whatever happened, whoever may have a place gets one once there are enough."""
        if not hasattr(self, "stack"):
            return
        try:
            self.nobody_starves()
        finally:
            self.stack.close()

    @rule(
        author=st.sampled_from(["ada", "ada", "renovate[bot]"]),
        repository=st.sampled_from([REPOSITORY, REPOSITORY, "eve/monolith", None]),
        base=st.sampled_from(["main", "main", "release"]),
        draft=st.sampled_from([False, False, True]),
        files=st.sampled_from([(MINE,), (MINE,), ("docs/README.md",)]),
    )
    def open(self, **how):
        """Somebody opens a pull request."""
        number = len(self.server.pulls) + 1
        self.server.open(number, **how)
        if how["repository"] != REPOSITORY or how["base"] != "main":
            self.foreign.add(number)
        self.fresh = False

    def some(self, data):
        """Choose a pull request."""
        self.fresh = False
        return data.draw(st.sampled_from(sorted(self.server.pulls)), label="number")

    @precondition(lambda self: self.server.pulls)
    @rule(data=st.data())
    def push(self, data):
        """Somebody pushes."""
        self.server.push(self.some(data))

    @precondition(lambda self: self.server.pulls)
    @rule(
        data=st.data(),
        conclusion=st.sampled_from(["success", "success", "success", "failure", None]),
    )
    def build(self, data, conclusion):
        """The job that makes the image says what became of it."""
        self.server.build(self.some(data), conclusion)

    @precondition(lambda self: self.server.pulls)
    @rule(data=st.data())
    def close_or_reopen(self, data):
        """Somebody closes it, or opens it again."""
        number = self.some(data)
        is_open = self.server.pulls[number]["state"] == "open"
        (self.server.close if is_open else self.server.reopen)(number)

    @precondition(lambda self: self.server.pulls)
    @rule(data=st.data())
    def draft_or_ready(self, data):
        """Somebody turns it into a draft, or back."""
        number = self.some(data)
        self.server.draft(number, draft=not self.server.pulls[number]["draft"])

    @precondition(lambda self: self.server.pulls)
    @rule(
        data=st.data(),
        actor=st.sampled_from(["ada", "grace", "labels[bot]"]),
        name=st.sampled_from(["preview", "preview", "preview", "preview-keep"]),
    )
    def wish(self, data, actor, name):
        """Somebody puts a label on, or takes it off."""
        number = self.some(data)
        on = name not in self.server.labelled(number)
        (self.server.label if on else self.server.unlabel)(number, name, actor)
        if name == "preview":
            self.wishes[number] = on

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

    @rule(report=st.sampled_from(REPORTS))
    def run(self, report):
        """A run, with whatever is known about Access."""
        self.label.verdict, minutes = report
        self.label.age = timedelta(minutes=minutes)
        before = self.server.previews()
        self.label.run()
        self.fresh = True
        if report[0] == "EXPOSED":
            assert self.server.previews() == set()
        if report not in REPORTS[:7]:
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
        """Whoever may have a place and waits gets one as others close, however many more come."""
        self.label.verdict, self.label.age = "PROTECTED", timedelta(0)
        self.label.run()
        waiting = self.entitled()
        for number in waiting:
            self.server.push(number)
            self.server.build(number)
        served = set()
        for _ in range(1 + len(waiting) // 3):
            self.newcomers()
            self.label.run()
            served |= self.server.previews()
            for number in self.server.previews():
                self.server.close(number)
        assert served >= waiting
        assert not served & self.foreign

    def newcomers(self):
        """Enough pull requests for every place are opened, later than all others."""
        self.server.pass_time(minutes=1)
        for number in range(len(self.server.pulls) + 1, len(self.server.pulls) + 4):
            self.server.open(number)
            self.server.build(number)

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
TestAnyHistory.settings = settings(deadline=None, max_examples=15, stateful_step_count=30)
