import pytest
import torch

from train.students.drop import Dropout, DropPath, dropout_rows


@pytest.mark.parametrize("build", [Dropout, DropPath])
@pytest.mark.parametrize("patches", [1, 3])
def test_the_parts_of_a_batch_drop_what_the_whole_drops(build, patches):
    """Also where the patches of an image come after each other in the first axis."""
    drop, images = build(0.5), torch.ones(16, patches, 2, 8)

    def dropped(rows):
        torch.manual_seed(3)
        with dropout_rows(rows, 16):
            return drop(images[rows].flatten(0, 1)).unflatten(0, (-1, patches))

    whole = dropped(list(range(16)))
    assert set(whole.unique().tolist()) == {0, 2}
    assert torch.equal(dropped([1, 3]), whole[[1, 3]])
