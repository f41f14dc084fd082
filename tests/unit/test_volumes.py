import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from leptonai.beneath import Beneath, parts_of
from leptonai.core.access import Principal, Role
from leptonai.core.attachments import attached_files, attached_variables
from leptonai.core.volumes import may_pass, may_use
from leptonai.engines.local.mounts import Found, link
from leptonai.errors import Conflict, Forbidden, InvalidRequest, LeptonError, NotFound
from leptonai.spec import codec
from leptonai.spec.containers import StorageAttachment, StorageAttachmentMode
from leptonai.spec.storage import DataSourceSpec, StoragePermission

ANA = Principal(name="ana@team.org", role=Role.MEMBER, workspace="ws")
ADMIN = Principal(name="root", role=Role.ADMIN, workspace="ws")


def rule(path, *users, by_user=False):
    policy = "by_user" if by_user else ""
    return StoragePermission(path_prefix=path, allowed_users=[*users], subfolder_policy=policy)


def test_without_rules_everybody_may_use_everything():
    assert may_use(ANA, (), "/")
    assert may_use(ANA, (), "/any/thing")


def test_from_the_first_rule_on_only_what_one_allows_is():
    rules = (rule("/data", "*"), rule("/data/ben", "ben"), rule("/home", by_user=True))
    assert may_use(ANA, rules, "/data/cats")
    assert not may_use(ANA, rules, "/data"), "ben's is in it"
    assert not may_use(ANA, rules, "/database"), "a name that begins alike is another one"
    assert not may_use(ANA, rules, "/data/ben/x")
    assert may_use(ANA, rules, "/home/ana/x")
    assert not may_use(ANA, rules, "/home/anabel")
    assert not may_use(ANA, rules, "/home")
    assert may_pass(ANA, rules, "/home")
    assert may_pass(ANA, rules, "/")
    assert not may_pass(ANA, rules, "/home/ben")
    assert may_use(ADMIN, rules, "/")


paths = st.lists(st.sampled_from("abc"), max_size=4).map(lambda parts: "/" + "/".join(parts))
rules = st.lists(
    st.builds(rule, paths, st.sampled_from(["*", "ana@team.org", "ben"]), by_user=st.just(False)),
    max_size=5,
    unique_by=lambda each: each.path_prefix,
)


@given(rules, paths, paths)
@example([rule("/", "ana@team.org"), rule("/a/b", "ben")], "/a", "/a")
def test_who_may_use_a_directory_may_use_all_below_it(rules, path, below):
    if may_use(ANA, rules, path):
        assert may_use(ANA, rules, path + below)
    if may_use(ANA, rules, path + below):
        assert may_pass(ANA, rules, path)


@pytest.mark.parametrize("links", [True, False])
def test_no_way_leads_out(tmp_path, links):
    root = tmp_path / "root"
    (root / "in").mkdir(parents=True)
    (tmp_path / "key").write_text("key")
    (root / "up").symlink_to("..")
    (root / "key").symlink_to(tmp_path / "key")
    (root / "loop").symlink_to("loop")
    (root / "proc").symlink_to("/proc/self/root")
    files = Beneath(root, links=links)
    for path in ("up/key", "key", "loop", "proc/etc/passwd", "up"):
        with pytest.raises(Forbidden):
            files.entries(path)
        with pytest.raises(Forbidden), files.reading(path):
            pass
        with pytest.raises(LeptonError):
            files.make_directory(f"{path}/new")
    assert [entry.name for entry in files.entries("")] == ["in"], "nothing is told of those"
    files.remove("up")
    assert (tmp_path / "key").exists()


def test_where_the_kernel_cannot_no_link_is_followed_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr("leptonai.beneath._OPENAT2", 9_999)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "file").write_text("text")
    (tmp_path / "link").symlink_to("in")
    files = Beneath(tmp_path)
    assert [entry.name for entry in files.entries("in")] == ["file"]
    for path in ("link", "link/file"):
        with pytest.raises(LeptonError), files.reading(path):
            pass
    with pytest.raises(NotFound):
        files.entries("none")


@pytest.mark.parametrize("path", ["..", "a/../b", "a\0b", "x" * 256, "a/" * 3_000])
def test_what_is_no_path_inside_is_refused(path):
    with pytest.raises(InvalidRequest):
        parts_of(path)


def test_what_is_deeper_than_anybody_may_open_is_removed(tmp_path):
    files = Beneath(tmp_path)
    files.make_directory("/".join(["d"] * 1_200))
    fd = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1_200):
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
    files.remove("d", recursive=True)
    assert files.entries("") == []


def test_a_pipe_holds_nobody_up(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Conflict), Beneath(tmp_path).reading("pipe"):
        pass


def test_a_link_of_an_earlier_attempt_gives_way(tmp_path):
    old, new, home = tmp_path / "old", tmp_path / "new", tmp_path / "home"
    link(home, [Found(old, "/mnt/data", read_only=False)], again=True)
    moved = [Found(new, "/mnt/data", read_only=False)]
    with pytest.raises(InvalidRequest, match="cannot be linked"):
        link(home, moved)
    link(home, moved, again=True)
    assert (home / "mnt/data").readlink() == new
    (home / "mnt/data").unlink()
    (home / "mnt/data").write_text("of the user")
    with pytest.raises(InvalidRequest, match="cannot be linked"):
        link(home, moved, again=True)


def test_a_bucket_becomes_profiles_of_the_tools():
    secrets = {"accessKeySecretName": "k", "secretKeySecretName": "s"}
    spec = codec.convert(
        DataSourceSpec,
        {
            "name": "pets",
            "workspace": "ws",
            "object": {
                "bucket": "b",
                "provider": {"type": "s3", "s3": {"region": "eu", "endpoint": "http://s3"}},
                "credentials": {"type": "leptonSecret", "leptonSecret": {"s3Credentials": secrets}},
            },
        },
    )
    both = [StorageAttachmentMode(mode="awsProfile"), StorageAttachmentMode(mode="mscProfile")]
    attachments = [StorageAttachment(data_source_name="pets", attachments=both)]
    files = attached_files(attachments, {"pets": spec}, {"k": "KEY", "s": "SECRET"})
    assert files["AWS_SHARED_CREDENTIALS_FILE"] == (
        "[b]\naws_access_key_id = KEY\naws_secret_access_key = SECRET\n\n"
    )
    assert "[profile b]\nregion = eu\nendpoint_url = http://s3\n" in files["AWS_CONFIG_FILE"]
    assert '"base_path": "b"' in files["MSC_CONFIG"]
    assert attached_variables(attachments, {"pets": spec}) == {"AWS_PROFILE": "b"}
    named = [StorageAttachmentMode(mode="awsProfile", profile_name="mine")]
    twice = [*attachments, StorageAttachment(data_source_name="pets", attachments=named)]
    assert (
        "[mine]\n"
        in attached_files(twice, {"pets": spec}, {"k": "K", "s": "S"})[
            "AWS_SHARED_CREDENTIALS_FILE"
        ]
    )
    assert attached_variables(twice, {"pets": spec}) == {}
    with pytest.raises(InvalidRequest):
        attached_files(attachments, {"pets": spec}, {"k": "KEY\n[other]", "s": "SECRET"})
