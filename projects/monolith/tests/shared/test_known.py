import socket

import pytest

from shared import tripwire
from shared.outward import Act, Kind
from shared.tripwire import Allowed, _Known


@pytest.fixture
def known(monkeypatch):
    """What is known of clone:5432, team:443 and 1.2.3.4:443, and how names resolve just now."""

    class Resolving:
        now, asked = 0.0, 0
        answers = {"clone": ["10.0.0.1"], "team": ["::ffff:10.9.9.9", "fd00::1"]}  # noqa: RUF012

        def resolve(self, name, port, *, type):  # noqa: A002  as socket has it
            assert (type, port) == (socket.SOCK_STREAM, 5432 if name == "clone" else 443)
            self.asked += 1
            if name not in self.answers:
                raise socket.gaierror
            return [(0, 0, 0, "", (address, port)) for address in self.answers[name]]

    faked = Resolving()
    monkeypatch.setattr("_socket.getaddrinfo", faked.resolve)
    monkeypatch.setattr("time.monotonic", lambda: faked.now)
    hosts = (("clone", 5432), ("team", 443), ("1.2.3.4", 443))
    return _Known(Allowed(hosts, ("/s",))), faked


def reach(host, port):
    """Reach a host at a port."""
    return Act(Kind.REACH, host, port)


def test_known_at_once(known):
    """
    Names and addresses of the allow-list are known before anything was looked up, and at one port.
    """
    known, faked = known
    at_once = {reach("clone", 5432), reach("team", 443), reach("1.2.3.4", 443)}
    at_once |= {Act(Kind.LOOK_UP, name) for name in ("clone", "team", "1.2.3.4")}

    assert known.acts == at_once | {Act(Kind.REACH, "/s")}
    assert known.lets(reach("CLONE.", 5432))
    assert known.lets(reach("::ffff:1.2.3.4", 443))
    assert not known.lets(reach("clone", 443))
    assert not known.lets(reach("other", 5432))
    assert not known.lets(Act(Kind.REACH, "/S"))
    assert not known.lets(Act(Kind.LOOK_UP, "CLONE"))
    assert not known.lets(Act(Kind.RUN, "/s"))
    assert faked.asked == 0


def test_address_that_a_name_has(known):
    """
    An address is looked up among the allowed names of its port, once, and known from then on.
    """
    known, faked = known

    assert known.lets(reach("10.0.0.1", 5432))
    assert reach("10.0.0.1", 5432) in known.acts
    assert known.lets(reach("fd00:0::1", 443))
    assert known.lets(reach("10.9.9.9", 443))
    assert not known.lets(reach("10.0.0.1", 80))
    assert faked.asked == 2
    assert not known.lets(reach("10.0.0.1", 443))


def test_address_that_changes(known):
    """
    A new address of the clone is followed, at once, and its old one is forgotten.
    """
    known, faked = known
    assert known.lets(reach("10.0.0.1", 5432))
    faked.answers["clone"] = ["10.0.0.2"]

    assert known.lets(reach("10.0.0.2", 5432))
    assert reach("10.0.0.1", 5432) not in known.acts
    assert reach("clone", 5432) in known.acts


def test_literal_is_never_forgotten(known):
    """
    An address of the allow-list itself stays known when a name no longer has it.
    """
    known, faked = known
    faked.answers["team"] = ["1.2.3.4", "10.9.9.9"]
    assert known.lets(reach("10.9.9.9", 443))
    faked.answers["team"] = ["10.9.9.8"]

    assert known.lets(reach("10.9.9.8", 443))
    assert reach("1.2.3.4", 443) in known.acts
    assert reach("10.9.9.9", 443) not in known.acts


def test_look_ups_are_few(known):
    """
    Who asks for one wrong address after another causes one look-up in five seconds.
    """
    known, faked = known
    for last in range(1, 200):
        assert not known.lets(reach(f"192.0.2.{last}", 5432))
    assert faked.asked == 1
    faked.now += tripwire.QUIET_SECONDS - 0.1
    assert not known.lets(reach("10.0.0.2", 5432))
    assert faked.asked == 1
    faked.answers["clone"] = ["10.0.0.2"]
    faked.now += 0.1

    assert known.lets(reach("10.0.0.2", 5432))
    assert faked.asked == 2


def test_names_that_do_not_resolve(known):
    """
    While names cannot be looked up, what is known stays known and nothing else is let through.
    """
    known, faked = known
    assert known.lets(reach("10.0.0.1", 5432))
    faked.answers.clear()

    assert not known.lets(reach("10.0.0.2", 5432))
    assert known.lets(reach("10.0.0.1", 5432))
