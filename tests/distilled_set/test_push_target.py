"""A folder with other files as the target of a push."""

from pathlib import Path

import pytest

from tests.distilled_set.folder_content import tree
from tests.distilled_sets import distilled_set
from vldd_dist.distilled_set.publishing.write import save
from vldd_dist.distilled_set.transfer.push import push
from vldd_dist.errors import StoreError


def test_a_set_is_not_pushed_among_other_files(tmp_path: Path) -> None:
    one, target, asked = str(tmp_path / "one"), tmp_path / "photographs", []
    save(distilled_set(), one)
    target.mkdir()
    photographs = {f"{number}.jpg": b"a photograph" for number in range(4)}
    for name, data in photographs.items():
        (target / name).write_bytes(data)
    refused = r"photographs: other files \(0\.jpg, 1\.jpg, 2\.jpg\) are there: name a new or empty folder, or give --replace"
    with pytest.raises(StoreError, match=refused):
        push(one, target, progress=lambda done, total: asked.append(done))
    assert asked == [], "the set is not read before"
    assert tree(target) == photographs
    push(one, target, replace=True)
    assert tree(target) == tree(one) | photographs
    push(one, target)
