"""The tiny workspace that other tests build on is what it says."""

from nnssl.data.index import read_index


def test_both_data_sets_can_be_read(tiny_workspace):
    ours = read_index(tiny_workspace / "nnUNet_preprocessed" / "Dataset745_Tiny" / "nnsslPlans_3d_fullres")
    stock = read_index(tiny_workspace / "nnUNet_preprocessed" / "Dataset004_Tiny" / "nnsslPlans_3d_fullres")
    assert len(ours.entries) == 6 and len(stock.entries) == 4
    assert ours.made_from and not stock.made_from
