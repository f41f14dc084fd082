"""What a machine tells of itself."""

from leptonai.engines.local.machine import clique_name


def test_a_clique_has_the_name_that_other_tools_give_it_and_none_where_there_is_no_fabric():
    cluster = bytes(range(16))
    assert clique_name(cluster, 32) == "00010203-0405-0607-0809-0a0b0c0d0e0f.32"
    assert clique_name(bytes(16), 0) == ""
