import gc

import torch

from alexnet_torch.data.buffers import Buffers


def test_memory_comes_back_when_the_last_view_is_gone() -> None:
    buffers = Buffers()
    first = buffers.empty((4, 5), torch.float32)
    place = first.data_ptr()
    view = first[2:].permute(1, 0)
    del first
    assert buffers.empty((4, 5), torch.float32).data_ptr() != place
    del view
    # the last that came back goes out first; that of the line above came back before it
    assert buffers.empty((4, 5), torch.float32).data_ptr() == place


def test_a_graph_holds_it() -> None:
    buffers = Buffers()
    images = buffers.empty((8,), torch.float32).fill_(3)
    place = images.data_ptr()
    weight = torch.ones(8, requires_grad=True)
    product = (weight * images).sum()
    del images
    other = buffers.empty((8,), torch.float32).fill_(7)
    assert other.data_ptr() != place
    product.backward()
    assert weight.grad is not None
    assert weight.grad.eq(3).all()
    del product
    gc.collect()
    assert buffers.empty((8,), torch.float32).data_ptr() == place


def test_a_smaller_one_uses_a_part_and_a_larger_one_new_memory() -> None:
    buffers = Buffers()
    x = buffers.empty((100,), torch.float32)
    place = x.data_ptr()
    del x
    part = buffers.empty((3, 7), torch.uint8)
    assert part.data_ptr() == place
    assert part.shape == (3, 7)
    assert part.is_contiguous()
    del part
    assert buffers.empty((1000,), torch.float64).fill_(1).sum() == 1000
