"""Train with two properties of AllSpark's published code: `python benchmarks/allspark_compat.py stage2 --run NAME`.

In evaluation mode the block attends to all images of a batch together, so the teacher's labels of an image depend on
the other images of its batch; and empty slots of the semantic memory contain noise and count as filled. (In published
training every process also overwrites all memories with that of the first process; that is not reproduced.) The
fingerprint of a checkpoint does not include these properties, so give such a run its own name: --set name=NAME-compat.
`evaluate` measures the saved student, which attends to one image at a time.
"""

from __future__ import annotations

from torch import Tensor

from train import recipe
from train.__main__ import main
from train.students.allspark.decoder import AllSparkBlock
from train.students.allspark.network import AllSparkNetwork
from train.students.network import Network


class PublishedBlock(AllSparkBlock):
    """A block that attends to all images of a batch in evaluation mode."""

    def evaluated(self, channels: Tensor) -> Tensor:
        return self.cross_attention.across(channels, channels[None])


class PublishedNetwork(AllSparkNetwork):
    """A student with the published block and a memory that starts with noise."""

    def __init__(self, network: Network, num_classes: int, crop: int):
        super().__init__(network, num_classes, crop)
        self.block.__class__ = PublishedBlock
        self.memory.vectors.normal_()
        self.memory.is_filled.fill_(True)


if __name__ == "__main__":
    recipe.AllSparkNetwork = PublishedNetwork  # type: ignore[misc]
    main()
