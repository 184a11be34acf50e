"""Every valid combination of values."""

from hypothesis import strategies as st

from tests.chart.rendering import over

shas = st.text("0123456789abcdef", min_size=40, max_size=40)
names = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?", fullmatch=True)
numbers = st.integers(min_value=1, max_value=999_999_999)
_hosts = st.from_regex(r"[a-z0-9]{1,10}(\.[a-z0-9]{1,10}){1,3}", fullmatch=True)
_cidrs = st.builds(
    "{}.{}.0.0/{}".format,
    st.sampled_from([1, 8, 104, 140, 199]),
    st.integers(0, 255),
    st.integers(16, 32),
)
_egress = st.fixed_dictionaries(
    {
        "host": _hosts,
        "port": st.integers(1, 65535),
        "cidrs": st.lists(_cidrs, min_size=1, max_size=3),
    }
)
_amounts = st.fixed_dictionaries({}, optional={"cpu": st.just("20m"), "memory": st.just("1Gi")})
_common = st.fixed_dictionaries(
    {},
    optional={
        "resources": st.fixed_dictionaries({}, optional={"requests": _amounts, "limits": _amounts}),
        "operatorNamespace": names,
        "postgres": st.fixed_dictionaries(
            {},
            optional={
                "size": st.sampled_from(["1Gi", "20Gi"]),
                "snapshotClass": names,
                "extensions": st.lists(
                    st.fixed_dictionaries(
                        {"name": names, "image": st.just({"reference": "example.org/vector:1"})}
                    ),
                    max_size=2,
                ),
            },
        ),
    },
)
_access = st.fixed_dictionaries(
    {
        "teamDomain": _hosts.map("https://{}".format),
        "aud": st.text("0123456789abcdef", min_size=64, max_size=64),
        "emails": st.lists(_hosts.map("ada@{}".format), min_size=1, max_size=3),
        "serviceClients": st.lists(
            st.text("0123456789abcdef", min_size=32, max_size=32).map("{}.access".format),
            min_size=1,
            max_size=2,
        ),
    },
    optional={"cidrs": st.lists(_cidrs, min_size=1, max_size=2)},
)
preview_defaults = st.fixed_dictionaries(
    {},
    optional={
        "domain": _hosts,
        "snapshotMethod": st.just("volumeSnapshot"),
        "sourceVolume": names,
        "storageClass": names,
        "gateway": st.fixed_dictionaries(
            {}, optional={"name": names, "namespace": names, "listener": names}
        ),
        "kubernetesApi": st.fixed_dictionaries(
            {},
            optional={
                "cidrs": st.lists(_cidrs, min_size=1, max_size=2),
                "ports": st.lists(st.integers(1, 65535), min_size=1, max_size=2),
            },
        ),
    },
)
_snapshots = st.one_of(
    st.just({}),
    st.builds(lambda name: {"snapshotName": name}, names),
    st.builds(
        lambda generation: {"snapshotMethod": "backup", "snapshotGeneration": generation},
        st.from_regex(r"[a-z0-9]{1,16}", fullmatch=True),
    ),
)

_OUTWARD = {
    "egressAllow": st.lists(_egress, max_size=3),
    "seal": st.sampled_from(["optional", "required"]),
}


@st.composite
def previews(draw):
    """Values of any preview that may be rendered."""
    number, sha = draw(numbers), draw(shas)
    own = {"enabled": True, "id": str(number), "headSha": sha, **draw(preview_defaults)}
    own |= {"access": draw(_access)} | draw(_snapshots)
    own |= draw(st.fixed_dictionaries({}, optional=_OUTWARD))
    if draw(st.booleans()):
        shape = draw(st.sampled_from(["{}.{}", "pr-{}.{}"]))
        own["host"] = shape.format(number, own.get("domain", "pr.jomcgi.dev"))
    tag = {"image": {"tag": f"sha-{sha}"}} if draw(st.booleans()) else {}
    return over({"preview": own, **tag}, draw(_common))


@st.composite
def productions(draw):
    """Values of any release that is no preview and may be rendered."""
    values = {"prEnv": False, "image": {"tag": f"sha-{draw(shas)}"}}
    secret = st.fixed_dictionaries({"name": names, "key": names})
    variables = ("DISCORD_BOT_TOKEN", "GITHUB_TOKEN", "VAULT_GIT_REMOTE")
    values["secrets"] = draw(st.fixed_dictionaries({}, optional=dict.fromkeys(variables, secret)))
    changelog = {"CHANGELOG_REPOSITORIES": "ada/harbour", "CHANGELOG_CHANNEL": "300"}
    values["settings"] = draw(st.sampled_from([{}, {"VAULT_GIT_BRANCH": "main"}, changelog]))
    values["cluster"] = {"enabled": draw(st.booleans()), "storageClass": draw(names)}
    return over(values, draw(_common))
