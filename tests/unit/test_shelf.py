"""Objects on their way to a shelf, asked for by several at once."""

import fcntl
import hashlib
import threading

from leptonai.data.shelf import Arriving, Shelf


def test_who_waits_for_an_object_does_not_wait_for_its_readers(tmp_path):
    data = b"an object"
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    shelf = Shelf(tmp_path)
    first = Arriving(shelf, digest)
    found: list[bool] = []

    def ask() -> None:
        second = Arriving(shelf, digest)
        found.append(second.is_there)
        second.close()

    other = threading.Thread(target=ask, daemon=True)
    other.start()
    first.write(data)
    assert found == []  # it waits
    first.keep()
    with shelf.path(digest).open("rb") as read:
        first.close()
        fcntl.flock(read, fcntl.LOCK_SH)  # as long as it is mapped
        other.join(30)
        assert found == [True]


def test_what_has_come_of_an_object_is_gone_on_with(tmp_path):
    data = b"an object"
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    shelf = Shelf(tmp_path)
    first = Arriving(shelf, digest)
    first.write(data[:4])
    first.close()
    second = Arriving(shelf, digest)
    assert (second.size, second.is_there) == (4, False)
    second.write(data[4:])
    assert second.digest == digest
    second.keep()
    second.close()
    assert shelf.path(digest).read_bytes() == data
