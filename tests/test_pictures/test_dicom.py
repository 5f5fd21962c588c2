"""DICOM files through pydicom, by the window that they state."""

import io

import numpy as np
import pytest

from simim_plugin.datasets import ImageFolder
from simim_plugin.pictures import decode, decode_to_draw, window_of
from simim_plugin.pictures.walking import EXTENSIONS

pydicom = pytest.importorskip('pydicom', reason='pydicom is not installed')


def dicom(levels: np.ndarray, **values) -> bytes:
    """Return a file of levels (H, W) int16 as stored."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = '1.2.3'
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = io.BytesIO()
    data = FileDataset(file, {}, file_meta=meta, preamble=bytes(128))
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, '1.2.3'
    data.Rows, data.Columns = levels.shape
    data.SamplesPerPixel = 1
    data.PhotometricInterpretation = 'MONOCHROME2'
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 1
    data.PixelData = levels.astype('<i2').tobytes()
    for name, value in values.items():
        setattr(data, name, value)
    data.save_as(file, enforce_file_format=True)
    return file.getvalue()


LEVELS = np.linspace(-1000, 2000, 64).reshape(8, 8).astype(np.int16)
WINDOW = dict(WindowCenter=40, WindowWidth=401)


def expected(levels, low, high):
    return np.round(np.clip((levels - low) / (high - low), 0, 1) * 255)


def test_the_files_window_is_used():
    found = decode(dicom(LEVELS, **WINDOW))
    assert found.shape == (8, 8, 3)
    by_hand = expected(LEVELS, -160.5, 239.5)
    assert np.abs(found[..., 0] - by_hand).max() <= 1
    # pydicom's own function, scaled to 8 bits.
    from pydicom.pixels import apply_windowing

    data = pydicom.dcmread(io.BytesIO(dicom(LEVELS, **WINDOW)))
    theirs = (apply_windowing(LEVELS, data) + 32768) / 65535 * 255
    assert np.abs(found[..., 0] - theirs).max() <= 1


def test_levels_of_eight_bits_have_the_files_window():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    bits = dict(BitsAllocated=8, BitsStored=8, HighBit=7)
    bits |= dict(PixelRepresentation=0, PixelData=levels.tobytes())
    for values, window, ends in (
        ({}, None, (0, 255)),
        (WINDOW, None, (-160.5, 239.5)),
        (WINDOW, (50, 90), (50, 90)),
    ):
        found = decode(dicom(levels, **bits, **values), window=window)
        assert np.abs(found[..., 0] - expected(1.0 * levels, *ends)).max() <= 1


def test_the_rescaling_comes_first():
    data = dicom(
        LEVELS + 1024, RescaleSlope=2, RescaleIntercept=-2048, **WINDOW
    )
    by_hand = expected(2.0 * LEVELS, -160.5, 239.5)
    assert np.abs(decode(data)[..., 0] - by_hand).max() <= 1


def test_a_given_window_and_the_first_of_several():
    found = decode(dicom(LEVELS, **WINDOW), window=(-1000, 2000))
    assert np.abs(found[..., 0] - expected(LEVELS, -1000, 2000)).max() <= 1
    several = dicom(LEVELS, WindowCenter=[40, 9], WindowWidth=[401, 9])
    assert np.array_equal(decode(several), decode(dicom(LEVELS, **WINDOW)))


def test_inverted_levels():
    data = dicom(LEVELS, PhotometricInterpretation='MONOCHROME1', **WINDOW)
    assert np.array_equal(decode(data), 255 - decode(dicom(LEVELS, **WINDOW)))


@pytest.mark.parametrize(
    ('values', 'words'),
    [
        ({}, 'from -1000 to 2000'),
        (dict(NumberOfFrames=2), '2'),
    ],
    ids=['no window', 'frames'],
)
def test_what_cannot_be_read_is_an_error(values, words):
    with pytest.raises(ValueError, match=words):
        decode(dicom(LEVELS, **values))


def test_a_folder_of_dicom_files(tmp_path):
    assert '.dcm' in EXTENSIONS
    (tmp_path / 'a.DCM').write_bytes(dicom(LEVELS, **WINDOW))
    dataset = ImageFolder(str(tmp_path), pipeline=[dict(type='LoadRGBImage')])
    assert dataset[0]['img'].shape == (8, 8, 3)
    low, high = window_of(lambda k: dict(img_path=str(tmp_path / 'a.DCM')), 1)
    assert -1000 <= low < high <= 2000


def test_a_file_without_a_window_is_drawn():
    """By its own percentiles, as other images of such levels."""
    with pytest.raises(ValueError, match='window'):
        decode(dicom(LEVELS, RescaleSlope=1, RescaleIntercept=-24))
    shown = decode_to_draw(dicom(LEVELS, RescaleSlope=1, RescaleIntercept=-24))
    assert shown.shape == (8, 8, 3)
    assert shown.min() == 0 and shown.max() == 255


def test_one_channel_of_a_colour_file_is_grey():
    colours = np.zeros((8, 8, 3), np.uint8)
    colours[..., 1] = 200
    data = dicom(
        colours[..., 0].astype(np.int16),
        SamplesPerPixel=3,
        PhotometricInterpretation='RGB',
        PlanarConfiguration=0,
        BitsAllocated=8,
        BitsStored=8,
        HighBit=7,
        PixelRepresentation=0,
        PixelData=colours.tobytes(),
    )
    assert np.array_equal(decode(data), colours)
    grey = decode(data, channels=1)
    assert grey.shape == (8, 8, 1)
    assert (grey == round(0.587 * 200)).all()
