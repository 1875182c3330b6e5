"""Objects below a URL; the tests of the maps and labels in them cover a server."""

from pipeline.store.object_store import ObjectStore


def test_objects_that_do_not_exist_are_skipped_and_all_others_are_removed(tmp_path):
    store = ObjectStore(f"file://{tmp_path}/objects", "cache")
    names = [f"a/{i}" for i in range(20)]
    for name in names:
        store.write(name, name.encode())
    assert sorted(store.listed()) == sorted((name, len(name)) for name in names)
    store.remove([word for name in names[1:] for word in (f"{name}0x", name)])
    assert dict(store.listed()) == {"a/0": 3}
    store.remove([])
    assert (store.read("a/0"), store.read("a/0", (1, 3)), store.read("a/1")) == (b"a/0", b"/0", None)
