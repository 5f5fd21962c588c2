"""Broken files and DICOM headers in labelled and annotated sets."""

import pytest

from simim_plugin.datasets import LabelledFolder, UnreadableImageError
from simim_plugin.errors import SimimError
from simim_plugin.pictures import read_header
from simim_plugin.settings import check_settings

from ..test_pictures.drawing import encode, noise

LOAD = [dict(type='LoadRGBImage')]


@pytest.fixture
def folder(tmp_path):
    """Write ten labelled images, one of them cut."""
    for k in range(10):
        file = tmp_path / 'ab'[k % 2] / f'{k}.png'
        file.parent.mkdir(exist_ok=True)
        data = encode(noise(), 'PNG')
        file.write_bytes(data[:100] if k == 4 else data)
    return str(tmp_path)


def test_a_labelled_set_skips_a_share(folder):
    whole = LabelledFolder(folder, pipeline=LOAD, skip_broken=0.1)
    labels = [whole[k]['gt_label'] for k in range(10)]
    assert len(labels) == 10
    assert whole.num_broken == 1
    strict = LabelledFolder(folder, pipeline=LOAD)
    with pytest.raises(UnreadableImageError, match=r'4\.png .*skip_broken'):
        [strict[k] for k in range(10)]


def test_a_test_skips_nothing(folder):
    with pytest.raises(SimimError, match='a test counts every image'):
        LabelledFolder(folder, pipeline=LOAD, skip_broken=0.1, test_mode=True)
    loader = dict(
        dataset=dict(type='LabelledFolder', data_root=folder, skip_broken=0.1)
    )
    with pytest.raises(SimimError, match='counts every image'):
        check_settings(
            dict(
                default_scope='mmpretrain',
                test_dataloader=loader,
                test_cfg=dict(),
                test_evaluator=[],
            )
        )


def test_header_of_a_dicom_file(tmp_path):
    """Annotated sets read it before the pixels."""
    pydicom = pytest.importorskip('pydicom')
    dataset = pydicom.Dataset()
    dataset.Rows, dataset.Columns = 7, 9
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = '1.2'
    dataset.file_meta.MediaStorageSOPInstanceUID = '1.2.3'
    dataset.save_as(tmp_path / 'a.dcm', enforce_file_format=True)
    assert read_header(tmp_path / 'a.dcm').stored == (7, 9)
