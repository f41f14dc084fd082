"""How control groups are found, from the files of machines that this one is not."""

from pathlib import Path

from leptonai.supervisor.cgroups import Cgroups, Limits, max_processes


def a_machine(root: Path, mountinfo: str, own: str) -> Path:
    proc = root / "proc"
    proc.mkdir()
    (proc / "mountinfo").write_text(mountinfo.replace("ROOT", str(root)))
    (proc / "cgroup").write_text(own)
    return proc


def a_group(path: Path, **files: str) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for name, content in {"cgroup.procs": "", **files}.items():
        (path / name.replace("__", ".")).write_text(content)
    return path


V2 = "30 23 0:26 / ROOT/cg rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"


def test_version_2_is_used_where_its_controllers_are(tmp_path):
    a_group(
        tmp_path / "cg",
        cgroup__controllers="cpuset cpu io memory pids",
        cgroup__subtree_control="cpu memory pids",
    )
    proc = a_machine(tmp_path, V2, "0::/system.slice/lepton.service\n")
    # A file takes a write as a value, where the kernel takes it as a command.
    found = Cgroups.detect("lepton-x", proc=proc)
    (tmp_path / "cg/cgroup.subtree_control").write_text("cpu memory pids")
    assert (found.version, found.bases) == (2, {"": tmp_path / "cg/lepton-x"})


def test_version_2_without_its_controllers_tells_that_nothing_is_limited(tmp_path):
    a_group(tmp_path / "cg", cgroup__controllers="", cgroup__subtree_control="")
    found = Cgroups.detect("lepton-x", proc=a_machine(tmp_path, V2, "0::/\n"))
    assert (found.version, found.limits) == (2, "none")


def test_a_mount_that_is_not_ours_to_write_is_not_used(tmp_path):
    (tmp_path / "cg").mkdir()  # without cgroup.procs, as a directory that is no group
    proc = a_machine(tmp_path, V2, "0::/\n")
    assert Cgroups.detect("lepton-x", proc=proc) == Cgroups(0)


def test_no_mounts_are_no_groups(tmp_path):
    proc = a_machine(tmp_path, "22 1 8:1 / / rw - ext4 /dev/root rw\n", "")
    found = Cgroups.detect("lepton-x", proc=proc)
    assert (found, found.limits) == (Cgroups(0), "none")
    assert not found.create("a.0", Limits())


def test_in_version_1_only_the_groups_that_are_needed_are_made(tmp_path):
    lines = ""
    for number, controller in enumerate(("memory", "cpu", "pids")):
        a_group(tmp_path / controller)
        lines += (
            f"3{number} 23 0:2{number} / ROOT/{controller} rw - cgroup cgroup rw,{controller}\n"
        )
    found = Cgroups.detect("lepton-x", proc=a_machine(tmp_path, lines, "1:memory:/\n"))
    assert (found.version, found.limits) == (1, "cgroup-v1")
    a_group(tmp_path / "pids/lepton-x/a.0", pids__max="")
    assert found.create("a.0", Limits()).paths == (str(tmp_path / "pids/lepton-x/a.0"),)
    assert (tmp_path / "pids/lepton-x/a.0/pids.max").read_text() == str(max_processes())
    assert not (tmp_path / "memory/lepton-x").exists()


def test_limits_of_version_2_are_written_in_the_kernels_words(tmp_path):
    base = tmp_path / "lepton-x"
    a_group(base, cgroup__subtree_control="")
    group = a_group(base / "a.0", memory__max="", pids__max="", cpu__weight="", cpu__max="")
    cgroups = Cgroups(2, {"": base}, frozenset({"cpu", "memory", "pids"}))
    limits = Limits(cpu_millis=2_500, limit_cpu_millis=1_500, limit_memory_bytes=1 << 30)
    assert cgroups.create("a.0", limits).paths == (str(group),)
    assert (base / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"
    assert (group / "memory.max").read_text() == "1073741824"
    assert (group / "pids.max").read_text() == str(max_processes())
    assert (group / "cpu.weight").read_text() == "250"
    assert (group / "cpu.max").read_text() == "150000 100000"


def test_a_group_below_a_container_is_placed_where_the_mount_shows_it(tmp_path):
    # The container sees its own group as the root of the mount, and the host's path as its own.
    line = "31 23 0:29 /docker/abc ROOT/memory rw - cgroup cgroup rw,memory\n"
    a_group(tmp_path / "memory")
    found = Cgroups.detect("lepton-x", proc=a_machine(tmp_path, line, "4:memory:/docker/abc\n"))
    assert found.bases == {"memory": tmp_path / "memory/lepton-x"}


def test_a_mount_point_with_a_space_is_found(tmp_path):
    line = "31 23 0:29 / ROOT/my\\040groups rw - cgroup cgroup rw,memory\n"
    a_group(tmp_path / "my groups")
    found = Cgroups.detect("lepton-x", proc=a_machine(tmp_path, line, "4:memory:/\n"))
    assert found.bases == {"memory": tmp_path / "my groups/lepton-x"}
