import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.goldens import FULL_CHECKPOINTS, TINYLLAVA_VIDEO
from tinyvid.types import ImageSpec
from tinyvid.video.pixels import to_pixels

HALF = (0.5, 0.5, 0.5)
RESIZES = ("stretch", "crop", "pad")


def random_frames(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)


def levels(pixels: torch.Tensor) -> np.ndarray:
    """Undo the normalization of mean = std = 0.5: (T, 3, S, S) to uint8 (T, S, S, 3)."""
    return ((pixels + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("name", FULL_CHECKPOINTS)
def test_equals_the_original_processor(name):
    golden = load_file(TINYLLAVA_VIDEO / name / "expected.safetensors")
    expected = golden["pixel_values"]
    frames = golden["frames_uint8"].permute(0, 2, 3, 1).numpy()
    pixels = to_pixels(frames, ImageSpec(size=expected.shape[-1], mean=HALF, std=HALF))
    assert (pixels - expected).abs().max() <= 1e-6


@pytest.mark.parametrize("crop_pct", [1.0, 0.875])
@pytest.mark.parametrize("size", [(40, 64), (64, 40), (31, 33)])
def test_crop_equals_torchvision(size, crop_pct):
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

    frames = random_frames(2, *size)
    spec = ImageSpec(
        size=28, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), interpolation="bilinear", resize="crop", crop_pct=crop_pct
    )
    transform = Compose(
        [
            Resize(int(28 / crop_pct), InterpolationMode.BILINEAR),
            CenterCrop(28),
            ToTensor(),
            Normalize(spec.mean, spec.std),
        ]
    )
    expected = torch.stack([transform(Image.fromarray(frame)) for frame in frames])
    torch.testing.assert_close(to_pixels(frames, spec), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("architecture", ["vit_tiny_patch16_224", "vit_base_patch16_clip_384"])
@pytest.mark.parametrize("crop_mode", ["center", "squash"])
def test_equals_timms_own_transform(architecture, crop_mode):
    import timm

    data = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(architecture).to_dict()) | {
        "crop_mode": crop_mode
    }
    frames = random_frames(1, 50, 90)
    resize = "stretch" if crop_mode == "squash" else "crop"
    spec = ImageSpec(
        size=data["input_size"][1], mean=data["mean"], std=data["std"], resize=resize, crop_pct=data["crop_pct"]
    )
    expected = timm.data.create_transform(**data)(Image.fromarray(frames[0]))
    torch.testing.assert_close(to_pixels(frames, spec)[0], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [(40, 60), (60, 40), (33, 33), (17, 90), (5, 200), (200, 5), (32, 48)])
def test_two_resizes_equal_smolvlms_video_processor(size):
    """Its filters work on tensors, which round differently: at most 2 of 255 levels."""
    from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor

    frames = random_frames(2, *size)
    sizes = {"size": {"longest_edge": 48}, "max_image_size": {"longest_edge": 32}}
    videos = list(torch.from_numpy(frames).permute(0, 3, 1, 2)[None])
    theirs = SmolVLMVideoProcessor(**sizes)(videos, return_tensors="pt")
    spec = ImageSpec(size=32, mean=HALF, std=HALF, interpolation="lanczos", longest_edge=48)
    difference = (to_pixels(frames, spec) - theirs.pixel_values[0]).abs() * 127.5
    assert difference.max() <= 2.01


def test_pad_centers_on_the_mean_color():
    frames = np.full((1, 20, 40, 3), 255, np.uint8)
    out = levels(to_pixels(frames, ImageSpec(size=40, mean=HALF, std=HALF, resize="pad")))[0]
    assert (out[:10] == 127).all()
    assert (out[30:] == 127).all()
    assert (out[10:30] == 255).all()


def test_stretch_keeps_the_corners_that_crop_removes():
    frames = np.zeros((1, 32, 96, 3), np.uint8)
    frames[:, :, :16] = 255
    stretched, cropped = (
        levels(to_pixels(frames, ImageSpec(size=32, mean=HALF, std=HALF, resize=resize)))[0]
        for resize in ("stretch", "crop")
    )
    assert stretched[:, 0].min() == 255
    assert cropped.max() == 0


@pytest.mark.slow
def test_crop_side_is_robust_to_rounding():
    frames = random_frames(1, 300, 300)
    for side in range(225, 300):
        spec = ImageSpec(size=224, mean=HALF, std=HALF, resize="crop", crop_pct=224 / side)
        whole = Image.fromarray(frames[0]).resize((side, side), Image.Resampling.BICUBIC)
        start = round((side - 224) / 2)
        expected = np.asarray(whole)[start : start + 224, start : start + 224]
        assert (levels(to_pixels(frames, spec))[0] == expected).all(), side


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("size", [(1, 1), (30, 1), (1, 30), (7, 11), (16, 16)])
def test_any_frame_size(size, resize):
    pixels = to_pixels(random_frames(3, *size), ImageSpec(size=16, mean=HALF, std=HALF, resize=resize, crop_pct=0.9))
    assert pixels.shape == (3, 3, 16, 16)
    assert pixels.dtype == torch.float32
    assert pixels.is_contiguous()
    assert pixels.isfinite().all()
    assert pixels.abs().max() <= 1


@pytest.mark.parametrize("resize", RESIZES)
def test_batch_equals_single_and_leaves_its_input_alone(resize):
    frames = random_frames(4, 24, 40)
    before = frames.copy()
    spec = ImageSpec(size=16, mean=HALF, std=HALF, resize=resize)
    together = to_pixels(frames, spec)
    assert torch.equal(together, torch.cat([to_pixels(frame[None], spec) for frame in frames]))
    assert (frames == before).all()


def test_gray_and_strided_frames():
    gray = np.repeat(random_frames(2, 20, 20)[..., :1], 3, axis=-1)
    spec = ImageSpec(size=8, mean=HALF, std=HALF)
    pixels = to_pixels(gray, spec)
    assert torch.equal(pixels[:, 0], pixels[:, 2])
    assert torch.equal(to_pixels(gray[:, ::-1], spec), to_pixels(np.ascontiguousarray(gray[:, ::-1]), spec))


def test_a_frame_of_zeros_and_ones_stays_dark():
    frames = np.ones((1, 8, 8, 3), np.uint8)
    assert to_pixels(frames, ImageSpec(size=8, mean=HALF, std=HALF)).max() < -0.99


def test_no_frames():
    assert to_pixels(np.empty((0, 8, 8, 3), np.uint8), ImageSpec(size=4, mean=HALF, std=HALF)).shape == (0, 3, 4, 4)
