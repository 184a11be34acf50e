import re
from datetime import timedelta

import pytest

from tests.labelling import ready, rows_of

FORK = "eve/monolith"


class TestPlaces:
    """At most three, in order, and refilled."""

    def test_three(self, server, label):
        """
        Three get the label; the fourth waits, and is told behind whom.
        """
        ready(server, 1, 2, 3, 4, 5)
        rows = rows_of(label.run("--json"))[-5:]

        assert server.previews() == {1, 2, 3}
        assert [row["reason"] for row in rows] == ["holds"] * 3 + ["queued"] * 2
        assert [row["behind"] for row in rows[3:]] == [[1, 2, 3], [1, 2, 3, 4]]

    def test_refilled(self, server, label):
        """
        A place that frees goes to whoever has waited longest, not to the lowest number.
        """
        ready(server, 9, 8, 7, 6, 5)
        label.run()
        server.close(8)
        label.run()

        assert server.previews() == {9, 7, 6}

    def test_nothing_to_do(self, server, label):
        """
        A run that has nothing to change writes nothing at all.
        """
        ready(server, 1, 2, 3, 4)
        label.run()
        written = list(server.writes)
        assert written
        label.run()

        assert server.writes == written

    def test_fourth_by_hand(self, server, label):
        """
        A fourth label that a person adds is taken off and queued: the oldest labels stay.
        """
        ready(server, 1, 2, 3, 4)
        label.run()
        server.pass_time(minutes=1)
        server.label(4)
        reasons = label.reasons()

        assert (server.previews(), reasons[4]) == ({1, 2, 3}, "queued")
        server.close(1)
        label.run()
        assert server.previews() == {2, 3, 4}

    def test_reopened(self, server, label):
        """
        Whoever comes back with an old label drives nobody out who got the place meanwhile.
        """
        ready(server, 1, 2, 3, 4)
        label.run()
        server.close(1)
        label.run()
        assert server.previews() == {2, 3, 4}
        server.pass_time(minutes=1)
        server.reopen(1)
        assert server.previews() == {1, 2, 3, 4}
        label.run()

        assert server.previews() == {2, 3, 4}

    def test_pushes_lose_no_turn(self, server, label):
        """
        Whoever works while waiting does not fall back.
        """
        ready(server, 1, 2, 3, 4, 5)
        label.run()
        server.pass_time(hours=1)
        server.push(4)
        server.build(4)
        server.close(1)
        label.run()

        assert server.previews() == {2, 3, 4}

    def test_many(self, server, label):
        """
        However many pull requests are open, all of them are read, page by page.
        """
        server.largest_page = 4
        ready(server, *range(1, 12))
        for number in range(1, 9):
            server.close(number)
        ready(server, *range(20, 31), draft=True)

        assert (len(label.reasons()), server.previews()) == (14, {9, 10, 11})


class TestWhoNever:
    """Forks and other branches, whatever anybody says."""

    @pytest.mark.parametrize("repository", [FORK, None], ids=["fork", "deleted-fork"])
    def test_fork(self, server, label, repository):
        """
        A fork never has the label; where a person added it, it is taken off, and it is told.
        """
        ready(server, 1)
        ready(server, 2, repository=repository)
        server.label(2)
        reasons = label.reasons()

        assert (server.previews(), reasons) == ({1}, {1: "holds", 2: "fork"})
        assert "in another repository" in server.comments[2][0]["body"]
        assert server.labelled(2) == set()

    def test_other_base(self, server, label):
        """
        A pull request for another branch loses the label, which its like for main keeps.
        """
        ready(server, 1, 2)
        label.run()
        server.pulls[2]["base"]["ref"] = "release"

        assert (label.reasons()[2], server.previews()) == ("base", {1})

    def test_spelling_of_the_repository(self, server, label):
        """
        A fork is known by what GitHub calls the two repositories, not by how we were called.
        """
        ready(server, 1)
        server.pulls[1]["base"]["repo"]["full_name"] = "Ada/Monolith"
        server.pulls[1]["head"]["repo"]["full_name"] = "Ada/Monolith"
        label.run()

        assert server.previews() == {1}

    def test_many_forks(self, server, label):
        """
        Strangers who open and close pull requests use up none of the rate that the writer needs.
        """
        ready(server, 1)
        ready(server, *range(2, 9), repository=FORK)
        for number in (7, 8):
            server.close(number)
        label.run()
        label.run()

        assert server.previews() == {1}
        assert [asked for asked in server.requests if re.search(r"/[2-8](/|$)", asked)] == []


class TestWishes:
    """What a person says about the label decides for good."""

    @pytest.mark.parametrize(
        ("how", "reason"),
        [
            ({"draft": True}, "draft"),
            ({"author": "renovate[bot]"}, "bot"),
            ({"files": ("docs/README.md",)}, "elsewhere"),
        ],
        ids=["draft", "bot", "elsewhere"],
    )
    def test_only_by_hand(self, server, label, how, reason):
        """
        Drafts, bots and foreign paths get one only when a person adds the label.
        """
        ready(server, 1, **how)
        assert (label.reasons(), server.previews()) == ({1: reason}, set())
        assert server.comments[1] == []
        server.label(1)

        assert (label.reasons(), server.previews()) == ({1: "holds"}, {1})

    @pytest.mark.parametrize(
        ("files", "reason"),
        [
            ([{"filename": "old.py", "previous_filename": "projects/monolith/new.py"}], "holds"),
            ([{"filename": "new.py", "previous_filename": "old.py"}], "elsewhere"),
            ([{"filename": "projects/monolithic/x.py"}], "elsewhere"),
            ([{"filename": f"docs/{n}.md"} for n in range(150)], "elsewhere"),
            ([{"filename": f"docs/{n}.md"} for n in range(3000)], "holds"),
        ],
        ids=["moved-away", "moved", "look-alike", "many", "more-than-github-lists"],
    )
    def test_paths(self, server, label, files, reason):
        """
        What was moved away from the monolith changes it, and so does more than GitHub lists.
        """
        ready(server, 1)
        server.files[1] = files

        assert label.reasons() == {1: reason}

    def test_opt_out(self, server, label):
        """
        A label that a person took off stays off, whatever is pushed, until a person adds it.
        """
        ready(server, 1)
        label.run()
        server.unlabel(1)
        for _ in range(3):
            server.pass_time(days=1)
            server.push(1)
            server.build(1)
            assert label.reasons() == {1: "opted_out"}
        assert server.previews() == set()
        server.label(1)
        label.run()

        assert server.previews() == {1}

    def test_opt_out_before_any_label(self, server, label):
        """
        A person may opt out by adding the label and taking it off, before we ever gave one.
        """
        ready(server, 1)
        server.label(1)
        server.unlabel(1)

        assert (label.reasons(), server.previews()) == ({1: "opted_out"}, set())

    def test_opt_out_while_we_write(self, server, label):
        """
        A person who takes the label off between our look and our write wins.
        """
        ready(server, 1)

        def meanwhile(request):
            if request.method == "POST" and request.path.endswith("/labels"):
                server.before = lambda _: None
                server.label(1)
                server.unlabel(1)

        server.before = meanwhile

        assert (label.reasons(), server.previews()) == ({1: "opted_out"}, set())

    def test_other_automation_is_a_person(self, server, label):
        """
        Whoever is not this workflow's own token counts as a person, other bots too.
        """
        ready(server, 1)
        server.label(1, actor="labels[bot]")
        server.unlabel(1, actor="labels[bot]")

        assert label.reasons() == {1: "opted_out"}

    def test_other_label(self, server, label):
        """
        What happens to other labels is no wish.
        """
        server.labels.add("bug")
        ready(server, 1)
        server.label(1, "bug")
        server.unlabel(1, "bug")
        label.run()

        assert server.previews() == {1}

    def test_no_longer_a_draft(self, server, label):
        """
        A draft that becomes ready gets a label, and waits from then on, not from when it opened.
        """
        ready(server, 1, draft=True)
        ready(server, 2, 3, 4, 5)
        server.pass_time(minutes=1)
        server.draft(1, draft=False)
        label.run()
        assert server.previews() == {2, 3, 4}
        server.close(2)
        label.run()

        assert server.previews() == {3, 4, 5}


class TestImage:
    """The first label waits for the image of the head."""

    def test_first_label(self, server, label):
        """
        No label before the image is there, and no place is held for one that has none.
        """
        server.open(1)
        ready(server, 2, 3, 4)
        server.build(1, None)

        assert label.reasons()[1] == "no_image"
        assert server.previews() == {2, 3, 4}
        assert "waits for the image" in server.comments[1][0]["body"]

    @pytest.mark.parametrize("conclusion", ["failure", "skipped", "cancelled", None])
    def test_no_image(self, server, label, conclusion):
        """
        Only the job's success is an image.
        """
        server.open(1)
        server.build(1, conclusion)
        assert label.reasons() == {1: "no_image"}
        server.build(1)

        assert label.reasons() == {1: "holds"}

    def test_other_job(self, server, label):
        """
        Another job's success is none.
        """
        server.open(1)
        server.build(1, name="image-scan")

        assert label.reasons() == {1: "no_image"}

    def test_next_push(self, server, label):
        """
        A push does not take the label away while its image is built: the clone would go with it.
        """
        ready(server, 1)
        label.run()
        server.push(1)
        label.run()

        assert server.previews() == {1}
        assert [event["event"] for event in server.events[1]] == ["labeled"]


class TestAccess:
    """No label without proof, none at all without Access."""

    @pytest.mark.parametrize(
        ("verdict", "age"),
        [
            (None, 0),
            ("INCONCLUSIVE", 0),
            ("WRONG_APP", 0),
            ("protected", 0),
            ("PROTECTED", 31),
            ("PROTECTED", -6),
        ],
        ids=["none", "inconclusive", "wrong-app", "unknown", "old", "of-the-future"],
    )
    def test_unproven(self, server, label, verdict, age):
        """
        Without a fresh PROTECTED nobody gets the label, and who has it keeps it.
        """
        ready(server, 1)
        label.run()
        ready(server, 2)
        label.verdict, label.age = verdict, timedelta(minutes=age)

        assert label.reasons() == {1: "holds", 2: "unproven"}
        assert server.previews() == {1}
        label.verdict, label.age = "PROTECTED", timedelta(minutes=29)
        label.run()
        assert server.previews() == {1, 2}

    def test_other_wildcard(self, server, label):
        """
        A proof about other names is none about ours.
        """
        ready(server, 1)
        path = label.report()
        path.write_text(path.read_text().replace("*.pr.", "*.other."))
        label.verdict = None

        assert label.reasons(f"--access-report={path}") == {1: "unproven"}

    @pytest.mark.parametrize(
        "said",
        ["", "[]", "{}", "null", '{"verdict": "PROTECTED"}', '{"verdict": []}', "[" * 99_999],
        ids=["empty", "list", "object", "null", "no wildcard", "no verdict", "deep"],
    )
    def test_no_report(self, server, label, tmp_path, said):
        """
        What is no report proves nothing, and the rules that take labels away still hold.
        """
        ready(server, 1)
        ready(server, 2, repository=FORK)
        server.label(2)
        (tmp_path / "odd.json").write_text(said)
        label.verdict = None

        assert label.reasons(f"--access-report={tmp_path / 'odd.json'}") == {
            1: "unproven", 2: "fork",
        }  # fmt: skip
        assert server.previews() == set()

    def test_exposed(self, server, label):
        """
        EXPOSED takes every label away, also one that a person added and one that is to be kept;
        they come back once Access is proven, because no person took them off.
        """
        ready(server, 1, 2, 3)
        server.label(1)
        server.label(2, "preview-keep")
        label.run()
        assert server.previews() == {1, 2, 3}
        label.verdict = "EXPOSED"
        assert set(label.reasons().values()) == {"exposed"}
        assert server.previews() == set()
        label.verdict = "PROTECTED"
        label.run()

        assert server.previews() == {1, 2, 3}

    @pytest.mark.parametrize("age", [0, 60 * 24])
    def test_old_exposed(self, server, label, age):
        """
        EXPOSED is believed however old it is.
        """
        ready(server, 1)
        label.run()
        label.verdict, label.age = "EXPOSED", timedelta(minutes=age)
        label.run()

        assert server.previews() == set()


class TestIdle:
    """A preview that nobody works on makes room."""

    def test_idle(self, server, label):
        """
        It ends after the days, is told how it comes back, and the next push brings it back.
        """
        ready(server, 1)
        label.run()
        server.pass_time(days=2, hours=23)
        assert label.reasons() == {1: "holds"}
        server.pass_time(hours=2)
        assert label.reasons() == {1: "idle"}
        assert "nothing was pushed for 3 days" in server.comments[1][0]["body"]
        server.pass_time(days=10)
        assert label.reasons() == {1: "idle"}
        server.push(1)
        assert label.reasons() == {1: "idle"}
        server.build(1)

        assert label.reasons() == {1: "holds"}
        assert server.previews() == {1}

    def test_by_hand(self, server, label):
        """
        A person brings it back without a push, for the same number of days.
        """
        ready(server, 1)
        label.run()
        server.pass_time(days=4)
        label.run()
        assert server.previews() == set()
        server.label(1)
        assert label.reasons() == {1: "holds"}
        server.pass_time(days=4)

        assert label.reasons() == {1: "idle"}

    def test_keep(self, server, label):
        """
        The label preview-keep exempts, and brings one back that had ended.
        """
        ready(server, 1, 2)
        label.run()
        server.label(1, "preview-keep")
        server.pass_time(days=4)
        label.run()
        assert server.previews() == {1}
        server.label(2, "preview-keep")
        label.run()

        assert server.previews() == {1, 2}

    def test_push_keeps(self, server, label):
        """
        Every push whose image is built begins the days anew.
        """
        ready(server, 1)
        label.run()
        for _ in range(4):
            server.pass_time(days=2)
            server.push(1)
            server.build(1)
            assert label.reasons() == {1: "holds"}

    def test_waiting_is_not_idleness(self, server, label):
        """
        Time in the queue does not count: whoever never had a place is not idle.
        """
        ready(server, 1, 2, 3, 4)
        label.run()
        server.pass_time(days=4)
        reasons = label.reasons()

        assert reasons == {1: "idle", 2: "idle", 3: "idle", 4: "holds"}

    def test_kill_switch_is_not_idleness(self, server, label):
        """
        Time without a label because of the kill switch does not count either.
        """
        ready(server, 1)
        label.run()
        label.verdict = "EXPOSED"
        label.run()
        server.pass_time(days=9)
        label.verdict = "PROTECTED"

        assert label.reasons() == {1: "holds"}

    def test_days(self, server, label):
        """
        The days are the operator's to choose, and at least one.
        """
        ready(server, 1)
        label.run("--idle-days=9")
        server.pass_time(days=8)
        assert label.reasons("--idle-days=9") == {1: "holds"}
        assert label.reasons("--idle-days=8") == {1: "idle"}

        assert "1" in label.run("--idle-days=0", code=2).output
